//! The program `tdx-attest`. The code is in the library of the same name.

fn main() -> std::process::ExitCode {
    common::cli::main::<tdx_attest::Cli>()
}
