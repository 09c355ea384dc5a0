//! Speed of applying, telling apart and compressing.

fn main() {
    divan::main();
}
