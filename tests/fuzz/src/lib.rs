//! From the fuzzer's bytes to a target of `tierway_tests::fuzz`.

use std::sync::Once;

use tierway_tests::fuzz::Target;

/// Runs the target of that name; ends the process when its property does not hold, by the panic that leaves it.
pub fn run(name: &str, bytes: &[u8]) {
    static QUIET: Once = Once::new();
    // The fuzzer's own hook ends the process at every panic, also at one that central expects of a library and catches.
    QUIET.call_once(|| drop(std::panic::take_hook()));
    let Some(target) = Target::named(name) else { panic!("there is no target `{name}`") };
    (target.run)(bytes);
}
