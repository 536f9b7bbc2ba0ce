//! Other people's RocketMQ clients, unchanged, against `stormglass serve`. Each
//! is installed into the build directory once.
//!
//! Without its package registry a client's test says so and passes; in CI
//! (the variable `CI` is set) it fails.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use stormglass_tests::server::{Server, target_dir};

const INSTALL: Duration = Duration::from_secs(180);
const RUN: Duration = Duration::from_secs(90);

#[test]
fn python_rocketmq_with_its_cpp_client() {
    python_client("rocketmq==0.4.4", "stops");
}

#[test]
fn python_rocketmq_cvs_with_a_newer_cpp_client() {
    // Its consumers cannot be stopped: shutdown() crashes, also without a broker.
    python_client("rocketmq-python-cvs==2.1.0.3", "exits");
}

fn python_client(package: &str, ending: &str) {
    let home = client_dir(package);
    let python = home.join("venv/bin/python");
    let installed = install(&home, || {
        run(Command::new("python3").args(["-m", "venv"]).arg(home.join("venv")), INSTALL)?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", package];
        run(Command::new(&python).args(pip), INSTALL)
    });
    if installed.is_none() {
        return;
    }
    let server = Server::start(&[]);
    server.command(&["topic", "create", "orders", "--queues", "4"]);
    let script = script("cpp_client.py");
    let mut client = Command::new(&python);
    // The library logs below its user's home.
    client.env("HOME", &home).arg(script).args([server.addr(), "orders", "60", ending]);
    let said = run(&mut client, RUN).unwrap_or_else(|why| panic!("{package}: {why}"));
    assert!(said.contains("everything arrived"), "{package}: {said}");
    if ending == "stops" {
        let lag = server.command(&["group", "lag", "cpp-all", "-t", "orders", "-o", "json"]);
        let lag: serde_json::Value = serde_json::from_str(&lag).unwrap();
        let rows = lag.as_array().unwrap();
        assert!(rows.iter().all(|row| row["lag"] == 0), "its offsets are stored: {lag}");
    }
}

#[test]
fn node_ali_ons() {
    let package = "ali-ons@3.12.0";
    if run(Command::new("npm").arg("--version"), INSTALL).is_err() {
        println!("SKIPPED {package}: there is no npm here");
        return;
    }
    let home = client_dir(package);
    let installed = install(&home, || {
        fs::create_dir_all(&home).map_err(|error| error.to_string())?;
        let npm = ["install", "--no-audit", "--no-fund", "--silent", "--prefix"];
        run(Command::new("npm").args(npm).arg(&home).arg(package), INSTALL)
    });
    if installed.is_none() {
        return;
    }
    let server = Server::start(&[]);
    server.command(&["topic", "create", "orders", "--queues", "4"]);
    let mut client = Command::new("node");
    client.env("NODE_PATH", home.join("node_modules")).env("HOME", &home);
    client.arg(script("ali_ons.js")).args([server.addr(), "orders", "60"]);
    let said = run(&mut client, RUN).unwrap_or_else(|why| panic!("{package}: {why}"));
    assert!(said.contains("everything arrived"), "{package}: {said}");
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name)
}

fn client_dir(package: &str) -> PathBuf {
    target_dir().join("clients").join(package.replace(['=', '@'], "-"))
}

/// Installs a client unless it was installed before. None if it cannot be.
fn install(home: &Path, install: impl FnOnce() -> Result<String, String>) -> Option<()> {
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
            Ok(None) if began.elapsed() < limit => thread::sleep(Duration::from_millis(20)),
            Ok(None) => {
                let _ = process.kill();
                let _ = process.wait();
                return Err(format!("not done after {limit:?}\n{}", said()));
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}
