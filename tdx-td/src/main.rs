//! The program `tdx-td`. The library has the implementation.

fn main() -> std::process::ExitCode {
    common::cli::main::<tdx_td::Cli>()
}
