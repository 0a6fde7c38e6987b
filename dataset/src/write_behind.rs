//! A file that its disk follows while it is written, so that little is left to wait for at the end.

use std::{
    fs::File,
    io::{self, Write},
    sync::mpsc::{SyncSender, sync_channel},
    thread::{self, JoinHandle},
};

/// Bytes between two calls of the disk.
const EVERY: usize = 4 << 20;

/// Writes to a file; a thread of its own syncs what lies behind.
#[derive(Debug)]
pub struct WriteBehind {
    file: File,
    /// Bytes since the disk was called last.
    since: usize,
    calls: SyncSender<()>,
    syncing: JoinHandle<io::Result<()>>,
}

impl WriteBehind {
    pub fn new(file: File) -> io::Result<Self> {
        let behind = file.try_clone()?;
        // A call that comes while the disk is at work is covered by the next one.
        let (calls, called) = sync_channel(0);
        let sync = move || called.into_iter().try_for_each(|()| behind.sync_data());
        let syncing = thread::Builder::new().name("sync".into()).spawn(sync)?;
        Ok(Self { file, since: 0, calls, syncing })
    }

    /// Ends the syncing; what the disk refused is an error here. Durable is the file once it is synced after this.
    pub fn finish(self) -> io::Result<()> {
        drop(self.calls);
        self.syncing.join().unwrap_or_else(|_| Err(io::Error::other("the thread that syncs the file broke off")))
    }
}

impl Write for WriteBehind {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.since += written;
        if self.since >= EVERY && self.calls.try_send(()).is_ok() {
            self.since = 0;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_written_is_there_and_what_the_disk_refuses_is_an_error_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut file = WriteBehind::new(File::create(&path).unwrap()).unwrap();
        let bytes: Vec<u8> = (0..3 * EVERY).map(|at| (at % 251) as u8).collect();
        for part in bytes.chunks(100_000) {
            file.write_all(part).unwrap();
        }
        file.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), bytes);

        // A pipe takes bytes, and has no disk.
        let (read, write) = io::pipe().unwrap();
        let drain = thread::spawn(move || io::copy(&mut { read }, &mut io::sink()).unwrap());
        let mut pipe = WriteBehind::new(File::from(std::os::fd::OwnedFd::from(write))).unwrap();
        // Each write calls once enough has gone by, and one of the calls is heard.
        while !pipe.syncing.is_finished() {
            pipe.write_all(&bytes).unwrap();
        }
        assert!(pipe.finish().is_err());
        assert!(drain.join().unwrap() > 0);
    }
}
