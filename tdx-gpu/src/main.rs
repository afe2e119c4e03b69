//! The program `tdx-gpu`. The code is in the library of the same name.

fn main() -> std::process::ExitCode {
    common::cli::main::<tdx_gpu::Cli>()
}
