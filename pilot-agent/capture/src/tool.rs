//! The programs that change rules: running one, and saying what its failure means.

use std::{
    io::{self, Write},
    process::{Command, Stdio},
};

use tracing::{debug, warn};

/// What went wrong with a program that changes rules, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    #[error("{program} is not installed: {fix}")]
    Missing { program: String, fix: &'static str },
    #[error("cannot run {program}: {source}")]
    Start {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "{program} was refused: {message}: run this as root with the capabilities NET_ADMIN and NET_RAW in the Pod's \
         network namespace"
    )]
    Denied { program: String, message: String },
    #[error("{program} finds no support in the kernel: {message}: {fix}")]
    Kernel {
        program: String,
        message: String,
        fix: &'static str,
    },
    #[error(
        "{program} waited in vain for the lock that another program holds: {message}: try again"
    )]
    Locked { program: String, message: String },
    #[error("{program}: {message}")]
    Failed { program: String, message: String },
}

/// What to do when a program is of no use here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fixes {
    /// It is not there.
    pub(crate) missing: &'static str,
    /// The kernel does not know what it asks for.
    pub(crate) kernel: &'static str,
}

/// Runs `command` with `input`, and returns what it prints.
pub(crate) fn run(mut command: Command, input: &str, fixes: Fixes) -> Result<String, ToolError> {
    debug!(?command, input, "run");
    let program = command.get_program().to_string_lossy().into_owned();
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let fix = fixes.missing;
            return Err(ToolError::Missing { program, fix });
        }
        Err(source) => return Err(ToolError::Start { program, source }),
    };
    if let Some(mut stdin) = child.stdin.take() {
        // A child that ends before it has read all of it says why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = match child.wait_with_output() {
        Ok(output) => output,
        Err(source) => return Err(ToolError::Start { program, source }),
    };
    let stderr = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(failed(program, &stderr, fixes));
    }
    if !stderr.trim().is_empty() {
        warn!(program, message = stderr.trim(), "warning of the tool");
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What a failure means, by what the program says; exit codes tell less, and differ between variants.
fn failed(program: String, stderr: &str, fixes: Fixes) -> ToolError {
    const DENIED: [&str; 3] = [
        "Permission denied",
        "Operation not permitted",
        "must be root",
    ];
    const KERNEL: [&str; 9] = [
        "can't initialize",
        "do you need to insmod?",
        "Couldn't load",
        "No chain/target/match by that name",
        "unsupported revision",
        "No such file or directory",
        "Operation not supported",
        "Protocol not supported",
        "Address family not supported",
    ];
    let lines = stderr
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    let message = lines.collect::<Vec<_>>().join("; ");
    let says = |texts: &[&str]| texts.iter().any(|text| message.contains(text));
    if says(&DENIED) {
        ToolError::Denied { program, message }
    } else if says(&["xtables lock"]) {
        ToolError::Locked { program, message }
    } else if says(&KERNEL) {
        let fix = fixes.kernel;
        ToolError::Kernel {
            program,
            message,
            fix,
        }
    } else {
        ToolError::Failed { program, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIXES: Fixes = Fixes {
        missing: "install it",
        kernel: "load xt_owner",
    };

    #[test]
    fn failures_say_what_to_do() {
        let cases = [
            (
                "iptables v1.8.9 (nf_tables): Could not fetch rule set generation id: Permission denied (you must be root)",
                "NET_ADMIN",
            ),
            (
                "iptables v1.8.9 (legacy): can't initialize iptables table `nat': Table does not exist (do you need to insmod?)",
                "load xt_owner",
            ),
            (
                "iptables v1.8.9 (legacy): Couldn't load match `owner':No such file or directory",
                "load xt_owner",
            ),
            (
                "iptables: No chain/target/match by that name.",
                "load xt_owner",
            ),
            (
                "/dev/stdin:1:1-2: Error: Could not process rule: Operation not supported",
                "load xt_owner",
            ),
            (
                "netlink: Error: cache initialization failed: Operation not permitted",
                "NET_ADMIN",
            ),
            (
                "Another app is currently holding the xtables lock; still 9s 0us time ahead",
                "another program holds",
            ),
            (
                "iptables-restore: line 2 failed: Chain already exists.",
                "already exists",
            ),
        ];
        for (stderr, expected) in cases {
            let error = failed("tool".to_owned(), stderr, FIXES).to_string();
            assert!(error.starts_with("tool"), "{error}");
            assert!(error.contains(expected), "{error}");
            assert!(error.contains(stderr), "{error}");
        }
    }

    #[test]
    fn a_missing_program_is_named_with_what_to_install() {
        let error = run(Command::new("ithildin-no-such-tool"), "", FIXES).unwrap_err();
        assert_eq!(
            error.to_string(),
            "ithildin-no-such-tool is not installed: install it"
        );
    }

    #[test]
    fn input_is_passed_and_output_returned() {
        assert_eq!(
            run(Command::new("cat"), "rules\n", FIXES).unwrap(),
            "rules\n"
        );
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "echo out; echo 'one two' >&2; echo ' three' >&2; exit 3",
        ]);
        let error = run(command, "rules", FIXES).unwrap_err().to_string();
        assert_eq!(error, "sh: one two; three");
    }
}
