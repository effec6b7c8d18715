//! The binary `larder`.

/// Its size classes are those that the store counts an entry's cost by, so that a cache takes what it was given.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    larder_server::cli::main()
}
