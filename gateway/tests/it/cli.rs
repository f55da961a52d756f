//! The command line as people and scripts use it: help, exit codes, what goes where, and colours at a terminal only.

use std::{
    fs::File,
    io::Read,
    path::Path,
    process::{Command, Output, Stdio},
};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::harness::Site;

fn fengda(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fengda"));
    command.args(arguments).stdin(Stdio::null()).env_remove("NO_COLOR").env("TERM", "xterm");
    command
}

fn run(arguments: &[&str], folder: &Path) -> Output {
    fengda(arguments).current_dir(folder).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A terminal: our end, and the end that a command writes to.
fn terminal() -> (File, File) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let theirs = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    (File::from(ours), theirs)
}

/// What a command writes to its stderr, a terminal, until it ends or `until` was seen.
fn at_a_terminal(mut command: Command, until: &str) -> String {
    let (mut ours, theirs) = terminal();
    let mut child = command.stdout(Stdio::null()).stderr(theirs).spawn().unwrap();
    // The command holds the other end too, in this process, until it is dropped.
    drop(command);
    let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
    // A terminal whose other end is closed reads as an error.
    while let Ok(n @ 1..) = ours.read(&mut buffer) {
        said.extend_from_slice(&buffer[..n]);
        if String::from_utf8_lossy(&said).contains(until) {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    String::from_utf8(said).unwrap()
}

#[test]
fn every_command_s_help_has_examples_and_goes_to_stdout() {
    let folder = tempfile::tempdir().unwrap();
    let top = run(&["--help"], folder.path());
    let commands = text(&top.stdout).split_once("Commands:\n").unwrap().1.split_once("\n\n").unwrap().0;
    let mut names: Vec<_> = commands.lines().filter_map(|l| l.split_whitespace().next()).filter(|n| *n != "help").collect();
    assert!(["run", "check", "token", "completions"].iter().all(|n| names.contains(n)), "{names:?}");
    names.push("--help");
    for name in names {
        let help = run(&[name, "--help"], folder.path());
        assert!(help.status.success() && help.stderr.is_empty(), "{name}");
        let said = text(&help.stdout);
        assert!(said.contains("Examples:\n  ") && said.contains("fengda ") && !said.contains('\x1b'), "{name}: {said}");
    }
    assert!(text(&top.stdout).contains("Exit codes: 0 "));
    assert_eq!(text(&run(&["--version"], folder.path()).stdout), concat!("fengda ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn a_wrong_command_line_exits_with_2_and_says_what_was_meant() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, says) in [
        (&["chek"][..], "'check'"),
        (&["check", "--confg", "x"], "'--config'"),
        (&["token", "--tenant", "a"], "--user"),
        (&["completions", "tcsh"], "fish"),
        (&["-c", "x.yaml", "check"], "--config"),
    ] {
        let wrong = run(arguments, folder.path());
        assert_eq!((wrong.status.code(), wrong.stdout.len()), (Some(2), 0), "{arguments:?}");
        assert!(text(&wrong.stderr).contains(says), "{}", text(&wrong.stderr));
    }
}

#[test]
fn without_a_configuration_every_command_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&[][..], &["run"], &["check"], &["token", "--tenant", "a", "--user", "u"]] {
        let failed = run(arguments, folder.path());
        assert_eq!((failed.status.code(), failed.stdout.len()), (Some(1), 0), "{arguments:?}");
        let said = text(&failed.stderr);
        assert!(said.contains("config.yaml") && said.contains("`-c FILE`") && said.contains("complete"), "{said}");
    }
}

#[test]
fn check_says_how_much_it_found_in_order() {
    let site = Site::new();
    site.write(&site.config());
    let fine = run(&["check"], &site.path(""));
    assert_eq!(text(&fine.stderr), "config.yaml: no problems; 2 tenants, 2 routes, 1 upstream\n");
}

#[test]
fn check_says_what_is_wrong_with_a_script_as_a_whole() {
    let site = Site::new();
    site.write(&site.config());
    site.script("alpha", "return 1");
    site.script("beta", "");
    // Longer than memory: its end must not be read.
    File::options().write(true).open(site.path("flows/beta/main.lua")).unwrap().set_len(1 << 40).unwrap();
    let wrong = run(&["check"], &site.path(""));
    let said: Vec<_> = text(&wrong.stderr).lines().collect();
    assert!(said[0].starts_with("flows/alpha/main.lua: ") && said[0].contains("function"), "{said:?}");
    assert_eq!(said[1..], ["flows/beta/main.lua: the script is larger than 256 KiB", "fengda: 2 problems"]);
}

#[test]
fn completions_complete_in_a_real_shell() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!(
        "source <({} completions bash); COMP_WORDS=(fengda che); COMP_CWORD=1; _fengda fengda che fengda; echo \"${{COMPREPLY[@]}}\"",
        env!("CARGO_BIN_EXE_fengda")
    );
    let completed = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert_eq!(text(&completed.stdout), "check\n", "{}", text(&completed.stderr));
    for (shell, begins) in [("zsh", "#compdef fengda"), ("fish", "# Print an optspec")] {
        assert!(text(&run(&["completions", shell], folder.path()).stdout).starts_with(begins), "{shell}");
    }
}

#[test]
fn a_reader_that_has_gone_away_is_no_failure() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = fengda(&["completions", "bash"]).stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let folder = tempfile::tempdir().unwrap();
    let status = fengda(&["check"]).current_dir(folder.path()).stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn problems_have_colours_at_a_terminal_only_and_not_with_no_color() {
    let site = Site::new();
    site.write(&site.config().replace("retries: 0", "retry: 0"));
    let check = || {
        let mut command = fengda(&["check"]);
        command.current_dir(site.path(""));
        command
    };
    let coloured = at_a_terminal(check(), "\0");
    assert!(coloured.contains("\x1b[1mconfig.yaml:7:") && coloured.contains("\x1b[2m    hint: "), "{coloured:?}");
    let mut plain = vec![String::from_utf8(check().output().unwrap().stderr).unwrap()];
    for (name, value) in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let mut command = check();
        command.env(name, value);
        plain.push(at_a_terminal(command, "\0"));
    }
    for said in plain {
        assert!(!said.contains('\x1b') && said.contains("config.yaml:7:"), "{said:?}");
    }
}

#[test]
fn whoever_starts_it_at_a_terminal_is_told_where_to_go() {
    let demo = "  demo: { flow: flows/alpha/main.lua, keys: [{ alg: HS256, secret: demo-key-that-everybody-knows-00001 }] }";
    let site = Site::new().tenants(demo).extra("try_page: true");
    site.write(&site.config());
    let mut command = fengda(&["run"]);
    command.current_dir(site.path("")).env("NO_COLOR", "1");
    let said = at_a_terminal(command, "Ctrl-C");
    for part in ["chat    http://127.0.0.1:", "to chat in a browser", "demo    demo ", "admin   http://127.0.0.1:", "/status"] {
        assert!(said.contains(part), "{part} in\n{said}");
    }
}
