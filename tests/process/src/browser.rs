//! A headless Chromium, driven over the DevTools protocol on a pair of pipes: JSON messages
//! with a zero byte behind each. Only what a test of a page needs.
//!
//! A crate that speaks this protocol brings a WebSocket and the whole protocol as generated
//! code; what is here is a few calls.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cluster::BOUND;
use crate::waiting;

/// The names of it that Debian's packages and others give it.
const NAMES: [&str; 4] = [
    "chromium-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome",
];

/// A browser with one tab. Dropping it ends it.
#[derive(Debug)]
pub struct Browser {
    process: Child,
    commands: File,
    messages: mpsc::Receiver<Value>,
    session: Option<String>,
    sent: u64,
    requests: Vec<String>,
    complaints: Vec<String>,
    // After the process that uses it.
    _profile: TempDir,
}

/// The browser's binary, where there is one.
#[must_use]
pub fn binary() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    NAMES
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)))
        .find(|candidate| candidate.is_file())
}

impl Browser {
    /// Starts it.
    ///
    /// # Errors
    /// Where it does not start or does not speak the protocol.
    pub fn start(binary: &PathBuf) -> Result<Self> {
        // The browser reads from descriptor 3 and writes to 4. Their other ends, and what
        // is to become them, are kept clear of both.
        let clear = |end: std::os::fd::OwnedFd| rustix::io::fcntl_dupfd_cloexec(end, 10);
        let (reads, commands) = std::io::pipe()?;
        let (answers, writes) = std::io::pipe()?;
        let (reads, writes) = (clear(reads.into())?, clear(writes.into())?);
        let (commands, answers) = (clear(commands.into())?, clear(answers.into())?);
        let profile = TempDir::with_prefix("cairn-browser-")?;
        let mut command = Command::new(binary);
        command
            .arg("--headless")
            .arg("--remote-debugging-pipe")
            .arg(format!("--user-data-dir={}", profile.path().display()))
            // Namespaces and shared memory that a container may not have; it shows nothing
            // but a page of the test's own.
            .args(["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"])
            .args(["--no-first-run", "--disable-background-networking"])
            .args(["--disable-component-update", "--disable-sync"])
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let (from, to) = (reads.as_raw_fd(), writes.as_raw_fd());
        // SAFETY: between fork and exec only `dup2` and `prctl` are called, which are
        // async-signal-safe; both descriptors are open until the child was spawned.
        unsafe {
            command.pre_exec(move || {
                if libc::dup2(from, 3) < 0
                    || libc::dup2(to, 4) < 0
                    || libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0
                {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let process = command.spawn().context("start the browser")?;
        drop((reads, writes));
        let (sender, messages) = mpsc::channel();
        let mut answers = BufReader::new(File::from(answers));
        thread::spawn(move || {
            let mut message = Vec::new();
            while let Ok(1..) = answers.read_until(0, &mut message) {
                message.pop();
                let Ok(value) = serde_json::from_slice(&message) else {
                    return;
                };
                if sender.send(value).is_err() {
                    return;
                }
                message.clear();
            }
        });
        let mut browser = Self {
            process,
            commands: commands.into(),
            messages,
            session: None,
            sent: 0,
            requests: Vec::new(),
            complaints: Vec::new(),
            _profile: profile,
        };
        browser.open_tab()?;
        Ok(browser)
    }

    fn open_tab(&mut self) -> Result<()> {
        let tab = self.call("Target.createTarget", json!({"url": "about:blank"}))?;
        let attach = json!({"targetId": tab["targetId"], "flatten": true});
        let attached = self.call("Target.attachToTarget", attach)?;
        let session = attached["sessionId"].as_str().context("a session")?;
        self.session = Some(session.to_owned());
        for domain in ["Page", "Runtime", "Log", "Network"] {
            self.call(&format!("{domain}.enable"), json!({}))?;
        }
        Ok(())
    }

    /// One call of the protocol; what it returns.
    ///
    /// # Errors
    /// Where it is refused, or not answered in time.
    pub fn call(&mut self, method: &str, parameters: Value) -> Result<Value> {
        self.sent += 1;
        let mut message = json!({"id": self.sent, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = serde_json::to_vec(&message)?;
        bytes.push(0);
        self.commands.write_all(&bytes)?;
        loop {
            let answer = self.messages.recv_timeout(BOUND);
            let mut answer = answer.with_context(|| format!("no answer to {method}"))?;
            if answer["id"] != self.sent {
                self.note(&answer);
                continue;
            }
            ensure!(answer["error"].is_null(), "{method}: {}", answer["error"]);
            return Ok(answer["result"].take());
        }
    }

    /// Remembers what a test asks for later.
    fn note(&mut self, event: &Value) {
        let told = &event["params"];
        match event["method"].as_str() {
            Some("Network.requestWillBeSent") => {
                let url = told["request"]["url"].as_str().unwrap_or_default();
                self.requests.push(url.to_owned());
            }
            Some("Runtime.exceptionThrown") => self.complaints.push(told.to_string()),
            Some("Log.entryAdded") if told["entry"]["level"] == "error" => {
                self.complaints.push(told["entry"].to_string());
            }
            Some("Runtime.consoleAPICalled") if told["type"] == "error" => {
                self.complaints.push(told["args"].to_string());
            }
            _ => {}
        }
    }

    /// Sets the size of the window, in CSS pixels, and whether it is a phone's.
    ///
    /// # Errors
    /// Where the browser does not answer.
    pub fn resize(&mut self, width: u32, height: u32, mobile: bool) -> Result<()> {
        let size = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile,
        });
        self.call("Emulation.setDeviceMetricsOverride", size)?;
        Ok(())
    }

    /// Asks for the `light` or the `dark` colours.
    ///
    /// # Errors
    /// Where the browser does not answer.
    pub fn prefer(&mut self, scheme: &str) -> Result<()> {
        let feature = json!({"name": "prefers-color-scheme", "value": scheme});
        self.call("Emulation.setEmulatedMedia", json!({"features": [feature]}))?;
        Ok(())
    }

    /// Goes to a page.
    ///
    /// # Errors
    /// Where it cannot be reached.
    pub fn open(&mut self, url: &str) -> Result<()> {
        let opened = self.call("Page.navigate", json!({"url": url}))?;
        if let Some(error) = opened["errorText"].as_str() {
            bail!("open {url}: {error}");
        }
        Ok(())
    }

    /// What an expression comes to on the page.
    ///
    /// # Errors
    /// Where it throws.
    pub fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let parameters = json!({
            "expression": expression, "returnByValue": true, "awaitPromise": true,
        });
        let mut came = self.call("Runtime.evaluate", parameters)?;
        let thrown = &came["exceptionDetails"];
        ensure!(thrown.is_null(), "{expression}: {thrown}");
        Ok(came["result"]["value"].take())
    }

    /// Waits until an expression is true on the page.
    ///
    /// # Errors
    /// Where it is not in time: names what was waited for, and what the page shows.
    pub fn until(&mut self, what: &str, expression: &str) -> Result<()> {
        waiting::until(what, BOUND, || {
            // While a page is being left there is nothing to ask.
            let holds = self.evaluate(expression)? == true;
            Ok(holds.then_some(()))
        })
        .with_context(|| {
            let shown = self.evaluate("document.body.innerText.slice(0, 2000)");
            format!(
                "the page shows: {shown:?}; complaints: {:?}",
                self.complaints
            )
        })
    }

    /// Every address that was asked for so far.
    #[must_use]
    pub fn requests(&self) -> &[String] {
        &self.requests
    }

    /// What the browser or the page complained of since it was asked last.
    pub fn take_complaints(&mut self) -> Vec<String> {
        std::mem::take(&mut self.complaints)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
