//! `tdx-disk`: see the library.

fn main() -> std::process::ExitCode {
    common::cli::main::<tdx_disk::Cli>()
}
