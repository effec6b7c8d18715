//! [`needs`]: programs that some tests need and some machines lack.

/// The variable that names, separated by commas, what this machine lacks. `cargo xtask test` sets it and reports what
/// was left out.
pub const WITHOUT: &str = "LARDER_WITHOUT";

/// Whether a test that needs `program` should run; if not, says so on stdout.
///
/// It should, and then fails without the program, unless [`WITHOUT`] names it. Under `CI=true` nothing is left out.
///
/// # Examples
///
/// ```
/// # use larder_core::testing::needs::needs;
/// if !needs("go") {
///     return;
/// }
/// ```
#[must_use]
pub fn needs(program: &str) -> bool {
    let run = wanted(
        program,
        std::env::var(WITHOUT).unwrap_or_default().as_str(),
        std::env::var("CI").is_ok_and(|value| value == "true"),
    );
    if !run {
        println!("left out: it needs {program}, which {WITHOUT} says is not here");
    }
    run
}

fn wanted(program: &str, without: &str, ci: bool) -> bool {
    ci || !without.split(',').any(|name| name.trim() == program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_runs_unless_its_program_is_named_as_missing() {
        assert!(wanted("go", "", false));
        assert!(wanted("go", "etcd,consul", false));
        assert!(!wanted("go", "etcd, go", false));
        assert!(wanted("go", "gopher", false));
    }

    #[test]
    fn under_ci_nothing_is_left_out() {
        assert!(wanted("go", "go", true));
    }
}
