//! `crit` alone, without the rest of criu.

fn main() {
    std::process::exit(images::crit::main(std::env::args_os().skip(1).collect()));
}
