//! GitHub's cache service as tests see it, for programs that are tried by hand: prints its URL and a token, and ends with
//! standard input.

use cooper_testkit::Actions;
use std::io::Read as _;

fn main() {
    let actions = Actions::start();
    println!("url=http://127.0.0.1:{}/", actions.port());
    println!("token={}", Actions::token(&["refs/heads/main"]));
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}
