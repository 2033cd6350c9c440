//! Stories that chance found, made short and kept: the generator will change, these will not.

use crate::compare::tell;
use crate::script::read;

fn check(text: &str) {
    if let Err(wrong) = tell(&read(text)) {
        panic!("{wrong}\n{text}");
    }
}

#[test]
fn settings_travel() {
    check(
        "servers=1
        0: Q set work_mem to '2MB'
        1: Q select current_setting('work_mem')
        0: Q select current_setting('work_mem')",
    );
}
