//! Traces of keys: read from a file, or made up.

use std::{fs, io::Read, path::Path};

/// Keys in the order they are asked for.
pub(crate) struct Trace {
    pub(crate) name: String,
    pub(crate) keys: Vec<u64>,
}

/// Reads little-endian 64-bit keys, compressed with zstd if the name ends in `.zst`.
pub(crate) fn read(path: &Path) -> Result<Trace, Box<dyn std::error::Error>> {
    let file = fs::File::open(path)?;
    let mut bytes = Vec::new();
    if path.extension().is_some_and(|extension| extension == "zst") {
        zstd::Decoder::new(file)?.read_to_end(&mut bytes)?;
    } else {
        std::io::BufReader::new(file).read_to_end(&mut bytes)?;
    }
    let (keys, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() {
        return Err("the trace is not a whole number of 64-bit keys".into());
    }
    let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let name = name.split('.').next().unwrap_or_default().to_owned();
    Ok(Trace { name, keys: keys.iter().copied().map(u64::from_le_bytes).collect() })
}

/// Draws ranks from 0 on, the lower the likelier, as Zipf's law has it.
pub(crate) struct Zipf {
    cumulated: Vec<f64>,
}

impl Zipf {
    pub(crate) fn new(keys: usize, exponent: f64) -> Self {
        let mut sum = 0.0;
        let cumulated = (1..=keys).map(|rank| (sum += (rank as f64).powf(-exponent), sum).1).collect();
        Self { cumulated }
    }

    pub(crate) fn draw(&self, random: &mut fastrand::Rng) -> usize {
        let point = random.f64() * self.cumulated.last().copied().unwrap_or_default();
        self.cumulated.partition_point(|&sum| sum < point).min(self.cumulated.len() - 1)
    }
}

/// How long a made-up trace is, and among how many keys it draws.
const MADE_UP_LEN: usize = 2_000_000;
const MADE_UP_KEYS: usize = 100_000;

/// Four traces, each with one trait of real ones.
pub(crate) fn made_up() -> Vec<Trace> {
    let mut random = fastrand::Rng::with_seed(1);
    let zipf = Zipf::new(MADE_UP_KEYS, 0.9);
    let mut trace = |name: &str, mut key: Box<dyn FnMut(usize, u64) -> u64>| {
        let keys = (0..MADE_UP_LEN).map(|at| key(at, zipf.draw(&mut random) as u64)).collect();
        Trace { name: name.to_owned(), keys }
    };
    let far = MADE_UP_KEYS as u64 * 1_000;
    vec![
        trace("zipf", Box::new(|_, drawn| drawn)),
        // A fifth of the time, a scan of keys that never come back.
        trace("zipf with scans", Box::new(move |at, drawn| if at / 10_000 % 5 == 4 { far + at as u64 } else { drawn })),
        trace("loop", Box::new(|at, _| (at % (MADE_UP_KEYS / 4)) as u64)),
        // Another tenth of the keys is the popular one every tenth of the time.
        trace(
            "shifting zipf",
            Box::new(|at, drawn| {
                let shift = (at / (MADE_UP_LEN / 10) * (MADE_UP_KEYS / 10)) as u64;
                (drawn + shift) % MADE_UP_KEYS as u64
            }),
        ),
    ]
}
