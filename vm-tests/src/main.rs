//! vm-tests
fn main() {}
