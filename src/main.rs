//! The `knarr` binary: everything it does lives in `knarr-cli` and below.

fn main() -> std::process::ExitCode {
    knarr_cli::main()
}
