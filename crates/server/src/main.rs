//! The binary `larder`.

fn main() -> std::process::ExitCode {
    larder_server::cli::main()
}
