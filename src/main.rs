//! criu
fn main() {}
