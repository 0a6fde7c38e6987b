//! All-reduce between two processes of one machine, one JSON line an engine and size:
//! `{"engine":"ring-shm","bytes":65536,"p50_us":8.1,"p95_us":9.7,"iterations":3000}`.
//!
//! Not a criterion bench: the program starts itself once more as rank 1. `--engines ring-shm,ring-tcp,tcp-pingpong --sizes 64,4096` picks
//! from what is measured, so that `peers/all_reduce.py` (gloo, the same sizes and keys) can be run in turns with it. `tcp-pingpong`
//! is the yardstick: half a round trip of the same bytes over a bare socket, with nothing added.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};
use worker::collective::Collective;
use worker::collective::ring::{GroupId, Options, PeerAddress, connect};

const ENGINES: [&str; 3] = ["ring-shm", "ring-tcp", "tcp-pingpong"];
const SIZES: [usize; 11] =
    [64, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 10_000_000, 40_000_000, 100_000_000];
/// Where rank 1 finds rank 0; set for rank 1 alone.
const PEER: &str = "LOCKSTEP_BENCH_ALL_REDUCE_PEER";
/// What a training step sums beside its gradients.
const TAIL: usize = 8;

type Failure = Box<dyn std::error::Error>;
type Step = Box<dyn FnMut(&mut [f32]) -> Result<Duration, Failure>>;

struct Plan {
    engines: Vec<String>,
    sizes: Vec<usize>,
}

impl Plan {
    /// Words that are not ours are cargo's, as `--bench`.
    fn from_arguments() -> Result<Self, Failure> {
        let words: Vec<String> = std::env::args().skip(1).collect();
        let after = |flag: &str| {
            let at = words.iter().position(|word| word == flag)?;
            Some(words.get(at + 1)?.split(',').map(str::to_owned).collect::<Vec<_>>())
        };
        let engines = after("--engines").unwrap_or_else(|| ENGINES.map(str::to_owned).to_vec());
        if let Some(unknown) = engines.iter().find(|engine| !ENGINES.contains(&engine.as_str())) {
            return Err(format!("no engine `{unknown}`: there are {}", ENGINES.join(", ")).into());
        }
        let sizes = match after("--sizes") {
            Some(sizes) => sizes.iter().map(|size| size.parse()).collect::<Result<_, _>>()?,
            None => SIZES.to_vec(),
        };
        Ok(Self { engines, sizes })
    }
}

fn main() -> Result<(), Failure> {
    let plan = Plan::from_arguments()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    match std::env::var(PEER) {
        Ok(first) => run(&plan, 1, &listener, first.parse()?),
        Err(_) => {
            let first = listener.local_addr()?;
            let mut peer = Command::new(std::env::current_exe()?)
                .args(std::env::args().skip(1))
                .env(PEER, first.to_string())
                .spawn()?;
            let outcome = run(&plan, 0, &listener, first);
            if outcome.is_err() {
                // It waits for this process, or has failed before.
                let _ = peer.kill();
            }
            let status = peer.wait()?;
            outcome?;
            if status.success() { Ok(()) } else { Err(format!("rank 1 ended with {status}").into()) }
        }
    }
}

fn run(plan: &Plan, rank: usize, listener: &TcpListener, first: SocketAddr) -> Result<(), Failure> {
    let peers = [first, listener.local_addr()?];
    for (generation, engine) in plan.engines.iter().enumerate() {
        let mut step: Step = match engine.as_str() {
            "tcp-pingpong" => pingpong(rank, listener, first)?,
            engine => {
                let wanted = if engine == "ring-shm" { "memory" } else { "tcp" };
                let peers: Vec<_> = (0..2)
                    .map(|rank| PeerAddress {
                        worker: format!("w{rank}:1"),
                        address: peers[rank],
                        machine: "here".into(),
                    })
                    .collect();
                let group = GroupId { run: "bench".into(), generation: generation as u64, secret: 1 };
                let options = Options { shared_memory: wanted == "memory", ..Options::default() };
                let mut ring = connect(listener, rank, &peers, &group, &options)?;
                if ring.transport(1 - rank) != Some(wanted) {
                    return Err(format!("{engine}: the ranks are connected by something else").into());
                }
                let mut tail = [0.0; TAIL];
                Box::new(move |gradients| {
                    let begun = Instant::now();
                    ring.all_reduce(gradients, &mut tail)?;
                    Ok(begun.elapsed())
                })
            }
        };
        for &bytes in &plan.sizes {
            let iterations = (1_000_000_000 / bytes.max(1)).clamp(25, 5000);
            let mut gradients = vec![0.0_f32; bytes / size_of::<f32>()];
            for _ in 0..iterations.div_ceil(10) {
                step(&mut gradients)?;
            }
            let mut times = (0..iterations).map(|_| step(&mut gradients)).collect::<Result<Vec<_>, _>>()?;
            times.sort_unstable();
            if rank == 0 {
                let [p50, p95] = [50, 95].map(|percent| times[(iterations - 1) * percent / 100].as_secs_f64() * 1e6);
                println!(
                    r#"{{"engine":"{engine}","bytes":{bytes},"p50_us":{p50:.1},"p95_us":{p95:.1},"iterations":{iterations}}}"#
                );
            }
        }
    }
    Ok(())
}

fn pingpong(rank: usize, listener: &TcpListener, first: SocketAddr) -> Result<Step, Failure> {
    listener.set_nonblocking(false)?;
    let mut stream = if rank == 0 { listener.accept()?.0 } else { TcpStream::connect(first)? };
    stream.set_nodelay(true)?;
    let mut bytes = Vec::new();
    Ok(Box::new(move |gradients| {
        bytes.resize(size_of_val(gradients), 0);
        let begun = Instant::now();
        if rank == 0 {
            stream.write_all(&bytes)?;
            stream.read_exact(&mut bytes)?;
        } else {
            stream.read_exact(&mut bytes)?;
            stream.write_all(&bytes)?;
        }
        Ok(begun.elapsed() / 2)
    }))
}
