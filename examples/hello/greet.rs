//! The program in the example's image: writes a greeting to a file, or prints that file.

use std::{env, fs, process};

const GREETING: &str = "/greeting";

fn main() {
    let result = match env::args().nth(1) {
        Some(name) => fs::write(GREETING, format!("Hello, {name}!\n")),
        None => fs::read_to_string(GREETING).map(|text| print!("{text}")),
    };
    if let Err(error) = result {
        eprintln!("{GREETING}: {error}");
        process::exit(1);
    }
}
