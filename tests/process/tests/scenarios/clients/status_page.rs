//! The coordinators' status page in a real browser.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use cairn_client::{Client, Options};
use cairn_process_tests::browser::{self, Browser};
use cairn_process_tests::cluster::{Cluster, Spec};
use cairn_process_tests::{skip, status};
use serde_json::{Value, json};

const DESKTOP: (u32, u32) = (1280, 900);
const PHONE: (u32, u32) = (360, 740);

/// A browser, or word of the test that is skipped for want of one.
fn browser() -> Result<Option<Browser>> {
    let Some(binary) = browser::binary() else {
        skip::without("the status page in a browser: there is no chromium-headless-shell")?;
        return Ok(None);
    };
    let mut browser = Browser::start(&binary)?;
    browser.resize(DESKTOP.0, DESKTOP.1, false)?;
    Ok(Some(browser))
}

fn page_of(cluster: &Cluster, coordinator: usize) -> String {
    let node = &cluster.coordinators[coordinator];
    format!("http://{}:{}/", node.host.address, node.ports.http)
}

const LIVE: &str = "document.querySelector('#connection')?.dataset.state === 'live'";
const ROWS: &str =
    "[...document.querySelectorAll('#table tbody th')].map((cell) => cell.innerText)";

/// What the state of a data node is, as the table shows it.
fn state_of(node: &str) -> String {
    format!(
        "[...document.querySelectorAll('#nodes tbody tr')]\
         .find((row) => row.querySelector('th').innerText === '{node}')\
         ?.querySelector('.state').innerText"
    )
}

/// Whether nothing of the page is beyond the window's right edge.
fn check_width(browser: &mut Browser) -> Result<()> {
    for (width, height) in [PHONE, DESKTOP] {
        browser.resize(width, height, width == PHONE.0)?;
        let scroll = browser.evaluate("document.documentElement.scrollWidth")?;
        ensure!(
            scroll.as_u64().is_some_and(|scroll| scroll <= width.into()),
            "at {width} pixels the page is {scroll} wide"
        );
    }
    Ok(())
}

/// Text of which the contrast to what is behind it is below 4.5, and whatever can be reached
/// by the keyboard and has no name for a screen reader.
const HARD_TO_READ: &str = r#"(() => {
  const numbers = (colour) => colour.match(/[\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = numbers(colour).map((c) => (c / 255 <= 0.03928 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if ((numbers(colour)[3] ?? 1) === 1) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = walker.nextNode(); text; text = walker.nextNode()) {
    const element = text.parentElement;
    if (!text.data.trim() || !element.checkVisibility() || element.closest('.unseen, noscript, option')) continue;
    const [a, b] = [light(getComputedStyle(element).color), light(behind(element))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) found.push(`${text.data.trim()}: ${contrast.toFixed(2)}`);
  }
  for (const control of document.querySelectorAll('a, button, input, select')) {
    if (!control.innerText?.trim() && !control.labels?.length) found.push(control.outerHTML);
  }
  return found;
})()"#;

fn check_legible(browser: &mut Browser) -> Result<()> {
    for scheme in ["dark", "light"] {
        browser.prefer(scheme)?;
        let found = browser.evaluate(HARD_TO_READ)?;
        ensure!(found == json!([]), "in {scheme}: {found}");
    }
    Ok(())
}

fn names(range: std::ops::Range<u32>) -> Value {
    range.map(|number| number.to_string()).collect()
}

/// One key is asked for and nothing else: it is named by its hash, and gone when it has cooled.
fn shows_what_is_hot(browser: &mut Browser, cluster: &Cluster) -> Result<()> {
    const HOT: &str =
        "[...document.querySelectorAll('#hot tbody th')].map((cell) => cell.innerText)";
    let hidden = "document.querySelector('#hot-section').hidden";
    ensure!(
        browser.evaluate(hidden)? == json!(true),
        "nothing is hot yet"
    );
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?
                .block_on(async {
                    let addresses = cluster.client_addresses();
                    let client = Client::connect(addresses, Options::default()).await?;
                    while !stop.load(Ordering::Relaxed) {
                        client.get("asked:for").await?;
                    }
                    anyhow::Ok(())
                })
        });
        let shown = browser.until(
            "the key's hash",
            &format!("{HOT}.some((name) => /^#[0-9a-f]{{16}}$/.test(name))"),
        );
        stop.store(true, Ordering::Relaxed);
        let asked = asking.join();
        shown?;
        asked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    check_width(browser)?;
    check_legible(browser)?;
    browser.until("nothing to be hot any more", hidden)
}

#[test]
fn a_browser_shows_every_node_and_partition_and_follows_what_happens_to_them() -> Result<()> {
    let Some(mut browser) = browser()? else {
        return Ok(());
    };
    let mut cluster = Cluster::start(Spec {
        data_nodes: 4,
        partitions: 16,
        ..Spec::default()
    })?;
    status::await_healthy(&cluster)?;
    let leader = status::leader(&cluster, None)?;
    // Every coordinator shows the same; a follower, what the leader says.
    for coordinator in [(leader + 1) % 3, leader] {
        browser.open(&page_of(&cluster, coordinator))?;
        browser.until("the page to be live", LIVE)?;
        let shown = browser.evaluate(ROWS)?;
        ensure!(shown == names(0..16), "the partitions {shown}");
        for node in &cluster.data {
            let shown = state_of(&node.name);
            browser.until(
                &format!("{} to be up", node.name),
                &format!("{shown} === 'up'"),
            )?;
        }
        for node in &cluster.coordinators {
            let there = format!(
                "[...document.querySelectorAll('#coordinators tbody th')]\
                 .some((cell) => cell.innerText === '{}')",
                node.name
            );
            browser.until(&node.name, &there)?;
        }
        let told = browser.evaluate("document.querySelector('#source').innerText")?;
        let told = told.as_str().context("who tells")?.to_owned();
        let name = &cluster.coordinators[leader].name;
        ensure!(told.starts_with(&format!("{name} leads")), "{told}");
    }
    check_width(&mut browser)?;
    check_legible(&mut browser)?;

    // A person looks for a key's partition, and for a node's.
    let look_for = |field: &str, value: &str| {
        format!(
            "(() => {{ const field = document.querySelector('#filter-{field}'); field.value = {value}; \
             for (const kind of ['input', 'change']) field.dispatchEvent(new Event(kind)); \
             return {ROWS}; }})()"
        )
    };
    // Redis Cluster's own example: the slot of `foo` is 12182.
    let found = browser.evaluate(&look_for("slot", "'{foo}bar'"))?;
    ensure!(found == json!(["11"]), "{found}");
    let found = browser.evaluate(&look_for("slot", "'0'"))?;
    ensure!(found == json!(["0"]), "{found}");
    browser.evaluate(&look_for("slot", "''"))?;
    let found = browser.evaluate(&look_for("node", "field.options[1].value"))?;
    let held = found.as_array().map_or(0, Vec::len);
    ensure!((1..16).contains(&held), "one node of four holds {found}");
    browser.evaluate(&look_for("node", "''"))?;

    // The same placement, as it is on the ring.
    browser.evaluate(
        "(() => { const order = document.querySelector('#placement-order'); order.value = 'ring'; \
         order.dispatchEvent(new Event('change')); })()",
    )?;
    browser.until(
        "the ring to be explained",
        "document.querySelector('#placement-readout').innerText.includes('virtual node')",
    )?;

    // What happens is seen without loading the page again.
    browser.evaluate("window.stillHere = true")?;
    shows_what_is_hot(&mut browser, &cluster)?;
    let victim = cluster.data[1].name.clone();
    cluster.data[1].kill()?;
    let down = format!("{}?.startsWith('down')", state_of(&victim));
    browser.until("the killed node to be shown as down", &down)?;
    browser.until(
        "other nodes to lead what it led",
        &format!(
            "document.querySelector('#summary').innerText.includes('16 of 16') && \
             ![...document.querySelectorAll('#table tbody td[data-label=Primary]')]\
             .some((cell) => cell.innerText === '{victim}')"
        ),
    )?;
    browser.until(
        "the event",
        &format!("document.querySelector('#events').innerText.includes('{victim} is down')"),
    )?;
    check_width(&mut browser)?;
    check_legible(&mut browser)?;
    cluster.data[1].start()?;
    browser.until(
        "everything to be healthy",
        "[...document.querySelectorAll('#table .state')].every((cell) => cell.innerText === 'healthy')",
    )?;
    let complaints = browser.take_complaints();
    ensure!(complaints.is_empty(), "{complaints:#?}");

    // The coordinator that serves the page goes away and comes back.
    cluster.coordinators[leader].kill()?;
    browser.until(
        "word of the lost connection",
        "!document.querySelector('#banner').hidden && \
         document.querySelector('#connection').dataset.state === 'lost'",
    )?;
    check_width(&mut browser)?;
    check_legible(&mut browser)?;
    cluster.coordinators[leader].start()?;
    browser.until(
        "the page to be live again, and the same one",
        &format!("{LIVE} && document.querySelector('#banner').hidden && window.stillHere"),
    )?;

    let origins: Vec<String> = (0..3).map(|place| page_of(&cluster, place)).collect();
    for request in browser.requests() {
        let own = origins.iter().any(|origin| request.starts_with(origin));
        ensure!(own || request == "about:blank", "{request} was asked for");
    }
    Ok(())
}

#[test]
fn a_browser_shows_thousands_of_partitions_by_the_page_and_what_moves() -> Result<()> {
    let Some(mut browser) = browser()? else {
        return Ok(());
    };
    let cluster = Cluster::start(Spec {
        coordinators: 1,
        data_nodes: 3,
        partitions: 4,
        ..Spec::default()
    })?;
    // A cluster of this size does not fit on the machine: the document is made on the page.
    let script = include_str!("large_cluster.js")
        .replace("NODES", "60")
        .replace("PARTITIONS", "4096");
    let before = json!({"source": script});
    browser.call("Page.addScriptToEvaluateOnNewDocument", before)?;
    browser.open(&page_of(&cluster, 0))?;
    browser.until("several looks", &format!("{LIVE} && window.looks >= 3"))?;
    let shown = browser.evaluate(ROWS)?;
    ensure!(shown == names(0..128), "{shown}");
    let nodes = browser.evaluate("document.querySelectorAll('#nodes tbody tr').length")?;
    ensure!(nodes == 60, "{nodes} nodes");
    // What is made grows with the page that is shown, not with the cluster.
    let elements = browser.evaluate("document.querySelectorAll('*').length")?;
    ensure!(
        elements.as_u64().is_some_and(|count| count < 8000),
        "{elements} elements"
    );
    browser.evaluate("document.querySelector('#after').click()")?;
    let shown = browser.evaluate(ROWS)?;
    ensure!(shown == names(128..256), "{shown}");
    check_width(&mut browser)?;

    // Fields that only some clusters tell are shown where they are.
    let text = browser.evaluate("document.body.innerText")?;
    let text = text.as_str().context("text")?;
    for told in [
        "draining, may be removed",
        "moves are paused; 1 being made, 1 waiting; about 1.0 MiB left",
        "zone-1",
        "512 GiB of 1.0 TiB",
        "being made",
        "3.0 MiB of 4.0 MiB",
        "waits",
        "something new",
    ] {
        ensure!(text.contains(told), "{told} is not shown");
    }
    let complaints = browser.take_complaints();
    ensure!(complaints.is_empty(), "{complaints:#?}");
    Ok(())
}
