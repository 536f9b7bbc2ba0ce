//! `cargo sim`: storms on the command line.

mod cli;

use std::process::ExitCode;

/// A run allocates for every frame on every machine: a fifth of its time with the
/// C library's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main()
}
