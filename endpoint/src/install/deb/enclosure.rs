//! What a root that does not run gets for the time of an installation: a `/proc` and a `/dev` of its own.
//!
//! Maintainer scripts read `/proc` and write to `/dev/null`; a root made by debootstrap has neither mounted. So
//! the package manager is started by `unshare(1)` in a mount and a process namespace of its own, in which both
//! are mounted before it is. Nothing of this is seen outside, and it is gone with the last process of it, also
//! when this program crashes; what a script started and left behind ends with the package manager, and no
//! script sees or signals a process of the computer. `/sys` stays out: it would describe another machine than
//! the one the root is for.

use std::{ffi::OsString, path::Path};

use tierway_common::programs::Program;

/// `$1` is the root; the rest is what is run then. Devices are those of this computer, bound one by one, which
/// needs no right to make any. The size is for what scripts put into `/dev/shm`.
const SCRIPT: &str = r#"
for folder in proc dev; do
    if ! test -d "$1/$folder" || test -L "$1/$folder"; then
        echo "\`$1/$folder\` is not a directory" >&2
        exit 1
    fi
done
mount -t proc -o nosuid,nodev,noexec proc "$1/proc"
mount -t tmpfs -o nosuid,noexec,mode=0755,size=16m tmpfs "$1/dev"
for device in null zero full random urandom tty; do
    : >"$1/dev/$device"
    mount --bind "/dev/$device" "$1/dev/$device"
done
mkdir -m 1777 "$1/dev/shm"
ln -s /proc/self/fd "$1/dev/fd"
ln -s /proc/self/fd/0 "$1/dev/stdin"
ln -s /proc/self/fd/1 "$1/dev/stdout"
ln -s /proc/self/fd/2 "$1/dev/stderr"
shift
exec "$@"
"#;

/// `program` in an enclosure in which `root` has what scripts need. When that cannot be had `program` is not
/// started, and what is printed to its errors says why.
#[must_use]
pub fn enclosed(program: Program, root: &Path) -> Program {
    let options =
        ["--mount", "--pid", "--fork", "--propagation", "private", "--", "/bin/sh", "-ec", SCRIPT, "sh"];
    let arguments = options
        .into_iter()
        .map(OsString::from)
        .chain([root.as_os_str().to_owned(), program.path.into_os_string()])
        .chain(program.arguments)
        .collect();
    Program { path: "/usr/bin/unshare".into(), arguments, ..program }
}
