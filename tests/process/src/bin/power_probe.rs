//! Writes files as it is told on its command line, for the tests of the power-loss
//! shim: `create:NAME`, `open:NAME`, `write:NAME:OFFSET:BYTE:COUNT`,
//! `append:NAME:BYTE:COUNT`, `length:NAME:BYTES`, `allocate:NAME:BYTES`, `flush:NAME`,
//! `flush-names:DIRECTORY`, `rename:FROM:TO`, `remove:NAME`, `copy:FROM:TO`. Names are
//! paths below the working directory. `calendar` prints the seconds since 1970.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};

fn main() -> Result<()> {
    let mut open: BTreeMap<String, File> = BTreeMap::new();
    for step in std::env::args().skip(1) {
        let words: Vec<&str> = step.split(':').collect();
        run(&mut open, &words).with_context(|| step.clone())?;
    }
    // Nothing is flushed on the way out: the files are raw.
    Ok(())
}

fn run(open: &mut BTreeMap<String, File>, words: &[&str]) -> Result<()> {
    let opened = |name: &str| -> Result<File> {
        let file = open
            .get(name)
            .with_context(|| format!("{name} is not open"))?;
        Ok(file.try_clone()?)
    };
    match words {
        ["create", name] => {
            let file = File::options()
                .create(true)
                .truncate(true)
                .read(true)
                .write(true)
                .open(name)?;
            open.insert((*name).to_owned(), file);
        }
        ["open", name] => {
            let file = File::options().read(true).write(true).open(name)?;
            open.insert((*name).to_owned(), file);
        }
        ["write", name, offset, byte, count] => {
            let bytes = vec![byte.parse()?; count.parse()?];
            opened(name)?.write_all_at(&bytes, offset.parse()?)?;
        }
        ["append", name, byte, count] => {
            let mut file = opened(name)?;
            file.seek(SeekFrom::End(0))?;
            file.write_all(&vec![byte.parse()?; count.parse()?])?;
        }
        ["length", name, bytes] => opened(name)?.set_len(bytes.parse()?)?,
        ["allocate", name, bytes] => {
            let file = opened(name)?;
            // SAFETY: `fallocate` takes integers; the descriptor is open.
            let result = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, bytes.parse()?) };
            ensure!(result == 0, "{}", std::io::Error::last_os_error());
        }
        ["flush", name] => opened(name)?.sync_data()?,
        ["flush-names", directory] => File::open(directory)?.sync_all()?,
        ["rename", from, to] => fs::rename(from, to)?,
        ["remove", name] => fs::remove_file(name)?,
        ["copy", from, to] => {
            fs::copy(from, to)?;
        }
        ["calendar"] => println!(
            "{}",
            SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs()
        ),
        other => bail!("no such step: {other:?}"),
    }
    Ok(())
}
