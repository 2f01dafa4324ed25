//! promesh: flags, tracing, run, exit code; nothing else.

fn main() {
    println!("promesh {}", env!("CARGO_PKG_VERSION"));
}
