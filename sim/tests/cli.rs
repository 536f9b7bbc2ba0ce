//! The command line as its users meet it: what it prints and how it ends.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

/// A storm of two seconds; `expect` decides whether it proved anything.
fn scenario(name: &str, expect: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let file = dir.join(format!("{name}.toml"));
    let text = format!(
        r#"
name = "{name}"
seeds = [1, 2]
run_for = "2s"
settle = "20s"
[cluster]
topics = [{{ name = "orders", queues = 2 }}]
[[workload]]
kind = "produce"
topic = "orders"
[[workload]]
kind = "consume"
group = "billing"
topics = ["orders"]
[expect]
at_least = {{ {expect} }}
"#
    );
    fs::write(&file, text).unwrap();
    file
}

fn sim(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sim")).args(args).output().unwrap()
}

fn status(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_run_that_holds_ends_with_0_and_writes_what_was_asked_for() {
    let file = scenario("holds", "delivery = 1");
    let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("asked-for");
    let paths = ["xml", "json", "html"].map(|kind| out.join(kind).display().to_string());
    let file = file.display().to_string();
    let run = sim(&["run", &file, "--junit", &paths[0], "--json", &paths[1], "--html", &paths[2]]);
    assert_eq!(status(&run), 0, "{}", stderr(&run));
    assert!(stdout(&run).contains("4 runs, every promise held"), "{}", stdout(&run));
    let read = |path: &String| fs::read_to_string(path).unwrap();
    assert_eq!(read(&paths[0]).matches("<testcase").count(), 4);
    assert_eq!(read(&paths[1]).matches("\"passed\": true").count(), 5);
    assert!(read(&paths[2]).contains("<title>Stormglass: holds</title>"));
}

#[test]
fn a_broken_run_ends_with_1_and_starts_with_the_command_that_repeats_it() {
    let file = scenario("broken", "delivery = 100000").display().to_string();
    let run = sim(&["run", &file, "--seed", "7", "--world", "madsim"]);
    assert_eq!(status(&run), 1, "{}", stderr(&run));
    let text = stdout(&run);
    let repro = format!("cargo sim replay {file} --seed 7 --world madsim");
    assert_eq!(text.lines().next(), Some(repro.as_str()));

    let replay = sim(&["replay", &file, "--seed", "7", "--world", "madsim"]);
    assert_eq!(status(&replay), 1);
    assert!(stdout(&replay).contains("expected at least 100000"));
}

#[test]
fn two_replays_tell_the_same_and_end_with_their_hash() {
    let file = scenario("replayed", "delivery = 1").display().to_string();
    for world in ["madsim", "turmoil"] {
        let args = ["replay", &file, "--seed", "3", "--world", world];
        let [one, other] = [sim(&args), sim(&args)];
        assert_eq!(status(&one), 0, "{}", stderr(&one));
        assert_eq!(stdout(&one), stdout(&other));
        let text = stdout(&one);
        let hash = text.lines().last().unwrap().strip_prefix("record-hash: ").unwrap();
        assert!(hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()), "{hash}");
    }
}

#[test]
fn determinism_counts_three_runs_of_each_combination() {
    let file = scenario("thrice", "delivery = 1").display().to_string();
    let run = sim(&["determinism", &file, "--seeds", "2", "--jobs", "2"]);
    assert_eq!(status(&run), 0, "{}{}", stdout(&run), stderr(&run));
    assert_eq!(stdout(&run), "12 runs, 0 differences\n");
}

#[test]
fn what_cannot_be_done_is_said_with_status_2_and_nothing_on_stdout() {
    let bad: [(&[&str], &str); 9] = [
        (&["run", "crash-in-a-bach"], "did you mean `crash-in-a-batch`?"),
        (&["run", "no/such/file.toml"], "no/such/file.toml"),
        (&["run", "--seeds", "5..2"], "5 must be below 2"),
        (&["run", "--seeds", "5"], "A..B"),
        (&["run", "--shard", "3/2"], "the first is 1/2"),
        (&["run", "--world", "moon"], "allowed: madsim, turmoil, both"),
        (&["run", "--jobs", "0"], "1..=1024"),
        (&["run", "--seed", "1", "--seeds", "1..2"], "cannot be used with"),
        (&["run", "--junit", "/dev/null/x.xml"], "cannot be written"),
    ];
    for (args, expected) in bad {
        let run = sim(args);
        assert_eq!(status(&run), 2, "{args:?}");
        assert!(stderr(&run).contains(expected), "{args:?}: {}", stderr(&run));
        assert_eq!(stdout(&run), "", "{args:?}");
    }
}

#[test]
fn a_key_that_does_not_exist_is_named_with_its_file_and_line() {
    let file = scenario("misspelt", "delivery = 1");
    let text = fs::read_to_string(&file).unwrap().replace("settle", "setle");
    fs::write(&file, text).unwrap();
    let run = sim(&["run", &file.display().to_string()]);
    assert_eq!(status(&run), 2);
    assert!(stderr(&run).contains("misspelt.toml:5: setle"), "{}", stderr(&run));
}

/// A bug whose place has moved would keep the others from being hunted, too.
#[test]
fn every_planted_bug_still_has_its_place() {
    let list = sim(&["mutants", "--list"]);
    assert_eq!(status(&list), 0, "{}", stderr(&list));
    assert!(stdout(&list).contains("answered-before-durable"));
    let nobody = sim(&["mutants", "no-such-bug"]);
    assert_ne!(status(&nobody), 0);
    assert!(stderr(&nobody).contains("no-such-bug"), "{}", stderr(&nobody));
}
