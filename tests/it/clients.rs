//! Other people's RocketMQ clients, unchanged, against `stormglass serve`. Each
//! is installed into the build directory once.
//!
//! Without its package registry a client's test says so and passes; in CI
//! (the variable `CI` is set) it fails.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use stormglass_tests::{
    cluster::Cluster,
    server::{Server, target_dir},
};

const INSTALL: Duration = Duration::from_secs(180);
const RUN: Duration = Duration::from_secs(90);

const CPP_1: &str = "rocketmq==0.4.4";
const CPP_2: &str = "rocketmq-python-cvs==2.1.0.3";
const ALI_ONS: &str = "ali-ons@3.12.0";
/// What each script says last.
const DONE: &str = "everything arrived";

#[test]
fn python_rocketmq_with_its_cpp_client() {
    cpp_client(CPP_1, "stops");
}

#[test]
fn python_rocketmq_cvs_with_a_newer_cpp_client() {
    // Its consumers cannot be stopped: shutdown() crashes, also without a broker.
    cpp_client(CPP_2, "exits");
}

fn cpp_client(package: &str, ending: &str) {
    let Some(mut client) = python(package, "cpp_client.py") else { return };
    let server = server_with(&[("orders", 4)]);
    let said = run(client.args([server.addr(), "orders", "60", ending]), RUN);
    expect(package, said);
    if ending == "stops" {
        let lag = server.command(&["group", "lag", "cpp-all", "-t", "orders", "-o", "json"]);
        let lag: serde_json::Value = serde_json::from_str(&lag).unwrap();
        let rows = lag.as_array().unwrap();
        assert!(rows.iter().all(|row| row["lag"] == 0), "its offsets are stored: {lag}");
    }
}

#[test]
fn python_rocketmq_retries_and_keeps_order() {
    cpp_retries(CPP_1);
}

#[test]
fn python_rocketmq_cvs_retries_and_keeps_order() {
    cpp_retries(CPP_2);
}

fn cpp_retries(package: &str) {
    let Some(mut client) = python(package, "cpp_retries.py") else { return };
    let server = server_with(&[("ordered", 4), ("spread", 12)]);
    expect(package, run(client.args([server.addr(), "ordered", "spread", "60"]), RUN));
}

/// The broker dies between a half and its decision, and asks for it when it is
/// back.
#[test]
fn python_rocketmq_cvs_transactions_with_check_back_across_a_restart() {
    let Some(mut client) = python(CPP_2, "cpp_transactions.py") else { return };
    let mut server = server_with(&[("orders", 4)]);
    client.args([server.addr(), "orders", "80"]);
    let mut restarted = false;
    let said = run_watching(&mut client, RUN, |said| {
        if !restarted && said.contains("restart the broker") {
            restarted = true;
            server.kill();
            server.restart();
        }
    });
    expect(CPP_2, said);
    assert!(restarted);
}

/// It asks the name server at a failed send and else twice a minute, and so finds
/// the next leader; its consumer takes half a minute or a whole one.
#[test]
fn python_rocketmq_goes_on_when_a_leader_is_killed() {
    const PATIENCE: Duration = Duration::from_secs(120);
    let Some(mut client) = python(CPP_1, "cpp_failover.py") else { return };
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(dir.path());
    cluster.command(&["topic", "create", "orders"]).unwrap();
    let mut is_killed = false;
    client.args([cluster.name_server(), "orders", "110"]);
    let said = run_watching(&mut client, PATIENCE, |said| {
        if !is_killed && said.contains("kill the leader") {
            is_killed = true;
            cluster.signal("-KILL", cluster.leader());
        }
    });
    expect(CPP_1, said);
    assert!(is_killed);
}

#[test]
fn node_ali_ons() {
    let Some(mut client) = node("ali_ons.js") else { return };
    let server = server_with(&[("orders", 4)]);
    expect(ALI_ONS, run(client.args([server.addr(), "orders", "60"]), RUN));
}

#[test]
fn node_ali_ons_retries() {
    let Some(mut client) = node("ali_ons_retries.js") else { return };
    let server = server_with(&[("orders", 4)]);
    expect(ALI_ONS, run(client.args([server.addr(), "orders", "60"]), RUN));
}

fn server_with(topics: &[(&str, u32)]) -> Server {
    let server = Server::start(&[]);
    for (topic, queues) in topics {
        server.command(&["topic", "create", topic, "--queues", &queues.to_string()]);
    }
    server
}

fn expect(package: &str, said: Result<String, String>) {
    let said = said.unwrap_or_else(|why| panic!("{package}: {why}"));
    assert!(said.contains(DONE), "{package}: {said}");
}

/// A script with its client package. None if that cannot be installed.
fn python(package: &str, name: &str) -> Option<Command> {
    let home = client_dir(package);
    let python = home.join("venv/bin/python");
    install(&home, || {
        run(Command::new("python3").args(["-m", "venv"]).arg(home.join("venv")), INSTALL)?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", package];
        run(Command::new(&python).args(pip), INSTALL)
    })?;
    let mut client = Command::new(&python);
    // The library logs below its user's home.
    client.env("HOME", &home).env("PYTHONDONTWRITEBYTECODE", "1").arg(script(name));
    Some(client)
}

fn node(name: &str) -> Option<Command> {
    if run(Command::new("npm").arg("--version"), INSTALL).is_err() {
        println!("SKIPPED {ALI_ONS}: there is no npm here");
        return None;
    }
    let home = client_dir(ALI_ONS);
    install(&home, || {
        fs::create_dir_all(&home).map_err(|error| error.to_string())?;
        let npm = ["install", "--no-audit", "--no-fund", "--silent", "--prefix"];
        run(Command::new("npm").args(npm).arg(&home).arg(ALI_ONS), INSTALL)
    })?;
    let mut client = Command::new("node");
    client.env("NODE_PATH", home.join("node_modules")).env("HOME", &home).arg(script(name));
    Some(client)
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name)
}

fn client_dir(package: &str) -> PathBuf {
    target_dir().join("clients").join(package.replace(['=', '@'], "-"))
}

/// Installs a client unless it was installed before. None if it cannot be.
fn install(home: &Path, install: impl FnOnce() -> Result<String, String>) -> Option<()> {
    // Several tests use one client.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let marker = home.join("installed");
    if marker.exists() {
        return Some(());
    }
    let installed = install().and_then(|_| File::create(marker).map_err(|e| e.to_string()));
    match installed {
        Ok(_) => Some(()),
        Err(why) if std::env::var_os("CI").is_some() => panic!("cannot install: {why}"),
        Err(why) => {
            println!("SKIPPED {}: it cannot be installed: {why}", home.display());
            None
        }
    }
}

/// Runs a command to its end, or kills it when its time is up. What it printed,
/// if it exited with 0.
fn run(command: &mut Command, limit: Duration) -> Result<String, String> {
    run_watching(command, limit, |_| {})
}

/// Meanwhile `watch` is shown what was printed so far, again and again.
fn run_watching(
    command: &mut Command,
    limit: Duration,
    mut watch: impl FnMut(&str),
) -> Result<String, String> {
    let output = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
    let said = || fs::read_to_string(output.path()).unwrap_or_default();
    let file = || output.reopen().map_err(|error| error.to_string());
    let mut process = command
        .stdin(Stdio::null())
        .stdout(file()?)
        .stderr(file()?)
        .spawn()
        .map_err(|error| format!("{command:?}: {error}"))?;
    let began = Instant::now();
    loop {
        match process.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(said()),
            Ok(Some(status)) => return Err(format!("{status}\n{}", said())),
            Ok(None) if began.elapsed() < limit => {
                watch(&said());
                thread::sleep(Duration::from_millis(20));
            }
            Ok(None) => {
                let _ = process.kill();
                let _ = process.wait();
                return Err(format!("not done after {limit:?}\n{}", said()));
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}
