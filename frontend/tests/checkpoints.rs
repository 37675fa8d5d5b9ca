//! Checkpoints: what is written is read back, and damaged or unfit ones are refused with exact messages.

use jet_frontend::checkpoint::{Checkpoint, INDEX_FILE, SINGLE_FILE};
use jet_frontend::tensor_file::{ElementType, TensorFile};
use jet_frontend::tensor_writer::{TensorHeader, TensorWriter, write_checkpoint};
use jet_frontend::{ModelConfig, SyntheticWeights, WeightSource};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn golden(case: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(case)
}

/// The smallest model with a jet and an attention layer: 26 tensors.
fn small_config() -> Value {
    json!({
        "model_type": "jet_nemotron", "hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 5, "layer_types": ["jet", "attn"],
        "efficient_attention_config": {
            "jet": {
                "conv_size": 3, "dconv_generator_reduction": 2, "expand_v": 2, "head_dim": 2, "norm_eps": 1e-5,
                "num_heads": 1
            }
        },
        "rms_norm_eps": 1e-06, "rope_theta": 1e4, "max_position_embeddings": 64, "tie_word_embeddings": true
    })
}

/// A directory with a good checkpoint of the small model.
struct Fixture {
    directory: TempDir,
    config: ModelConfig,
}

impl Fixture {
    fn new(shard_bytes: Option<u64>) -> Fixture {
        let directory = TempDir::new().unwrap();
        let source = directory.path().join("source.json");
        std::fs::write(&source, small_config().to_string()).unwrap();
        write_checkpoint(directory.path(), &source, 7, shard_bytes, &|_| ()).unwrap();
        let config = ModelConfig::read(&directory.path().join("config.json")).unwrap();
        Fixture { directory, config }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The messages of a refusal, without the directory's name.
    fn refusal(&self) -> String {
        let text = Checkpoint::open(self.directory.path(), &self.config).unwrap_err().to_string();
        text.replace(&format!("{}/", self.directory.path().display()), "")
            .replace(&self.directory.path().display().to_string(), "DIR")
    }

    /// Rewrites a file with another header over the same data.
    fn edit(&self, name: &str, change: impl FnOnce(&mut Map<String, Value>)) {
        let (mut header, data) = parts(&self.path(name));
        change(&mut header);
        self.put(name, &Value::Object(header).to_string(), &data);
    }

    fn put(&self, name: &str, header: &str, data: &[u8]) {
        let length = (header.len() as u64).to_le_bytes();
        std::fs::write(self.path(name), [&length[..], header.as_bytes(), data].concat()).unwrap();
    }

    fn index(&self, change: impl FnOnce(&mut Map<String, Value>)) {
        let path = self.path(INDEX_FILE);
        let mut index: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(index["weight_map"].as_object_mut().unwrap());
        std::fs::write(path, index.to_string()).unwrap();
    }
}

fn parts(path: &Path) -> (Map<String, Value>, Vec<u8>) {
    let bytes = std::fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..8 + length]).unwrap(), bytes[8 + length..].to_vec())
}

const NORM: &str = "model.norm.weight";

/// The generator's files against those of the golden data, written independently: every byte of every tensor.
#[test]
fn written_checkpoints_equal_the_golden_ones() {
    for (case, seed) in [("tiny-a", 11), ("tiny-c-attn", 14)] {
        let meta: Value = serde_json::from_slice(&std::fs::read(golden(case).join("meta.json")).unwrap()).unwrap();
        assert_eq!(meta["seed"], seed, "{case}");
        let directory = TempDir::new().unwrap();
        write_checkpoint(directory.path(), &golden(case).join("config.json"), seed, None, &|_| ()).unwrap();
        let ours = TensorFile::open(&directory.path().join(SINGLE_FILE)).unwrap();
        let theirs = TensorFile::open(&golden(case).join(SINGLE_FILE)).unwrap();
        assert_eq!(ours.names().len(), theirs.names().len());
        for name in theirs.names() {
            let (a, b) = (ours.entry(name).unwrap(), theirs.entry(name).unwrap());
            assert_eq!((a.dtype, &a.shape), (b.dtype, &b.shape), "{case} {name}");
            assert!(ours.bytes(a) == theirs.bytes(b), "{case} {name}: different bytes");
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2, "no partial file is left");
    }
}

/// The format's own library reads what is written here, sharded or not.
#[test]
fn written_files_are_safetensors() {
    let fixture = Fixture::new(Some(300));
    let checkpoint = Checkpoint::open(fixture.directory.path(), &fixture.config).unwrap();
    let mut tensors = 0;
    for path in checkpoint.files() {
        let bytes = std::fs::read(path).unwrap();
        let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let ours = TensorFile::open(path).unwrap();
        for (name, view) in theirs.tensors() {
            let entry = ours.entry(&name).unwrap();
            assert_eq!((view.shape(), view.data()), (entry.shape.as_slice(), ours.bytes(entry)), "{name}");
            assert_eq!(view.dtype().to_string(), entry.dtype.name(), "{name}");
            tensors += 1;
        }
    }
    assert_eq!(tensors, fixture.config.tensors().len());
}

/// One file, shards, and the generator itself give the same weights, whole, by rows, as f32 and as bf16.
#[test]
fn all_sources_agree() {
    let (single, sharded) = (Fixture::new(None), Fixture::new(Some(300)));
    let synthetic = SyntheticWeights::new(&single.config, 7);
    let a = Checkpoint::open(single.directory.path(), &single.config).unwrap();
    let b = Checkpoint::open(sharded.directory.path(), &sharded.config).unwrap();
    assert_eq!(a.files().count(), 1);
    assert!(b.files().count() > 3);
    for spec in single.config.tensors() {
        let sources: [&dyn WeightSource; 3] = [&a, &b, &synthetic];
        let [x, y, z] = sources.map(|source| source.read_all(&spec.name).unwrap());
        assert!(x == y && y == z, "{}", spec.name);
        let info = a.info(&spec.name).unwrap();
        assert_eq!((info.shape.as_slice(), x.len() as u64), (spec.shape.as_slice(), spec.elements()));
        let rows = info.rows() / 2..info.rows();
        let part = &x[rows.start * info.columns()..];
        for source in sources {
            assert_eq!(source.info(&spec.name).unwrap(), info);
            let mut out = vec![0.0; part.len()];
            source.read_rows(&spec.name, rows.clone(), &mut out).unwrap();
            assert_eq!(out, part);
            let mut buffer = Vec::new();
            let bits = source.bf16_rows(&spec.name, rows.clone(), &mut buffer);
            if info.dtype == jet_frontend::WeightDtype::Bf16 {
                let widened: Vec<f32> = bits.unwrap().iter().map(|b| f32::from_bits(u32::from(*b) << 16)).collect();
                assert_eq!(widened, part);
            } else {
                let expected = format!("{}: found stored type F32, expected BF16", spec.name);
                assert_eq!(bits.unwrap_err().to_string(), expected);
            }
        }
    }
}

/// f16 and f32 matrices are read exactly, and bf16 data at an odd address are copied instead of borrowed.
#[test]
fn other_types_and_alignments() {
    let fixture = Fixture::new(None);
    let original = Checkpoint::open(fixture.directory.path(), &fixture.config).unwrap();
    let values = original.read_all(NORM).unwrap();
    let table = original.read_all("model.embed_tokens.weight").unwrap();
    let path = fixture.path(SINGLE_FILE);
    let file = TensorFile::open(&path).unwrap();
    let header = |name: &String| {
        let entry = file.entry(name).unwrap();
        let dtype = if name == NORM { ElementType::F16 } else { entry.dtype };
        TensorHeader { name: name.clone(), dtype, shape: entry.shape.clone() }
    };
    let mut writer = TensorWriter::create(&path, file.names().iter().map(header).collect()).unwrap();
    let halves: Vec<u8> = values.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect();
    for name in file.names() {
        let bytes = if name == NORM { &halves } else { file.bytes(file.entry(name).unwrap()) };
        writer.append(name, bytes).unwrap();
    }
    writer.finish().unwrap();
    let (header, data) = parts(&path);
    let text = Value::Object(header).to_string();
    fixture.put(SINGLE_FILE, &format!("{text}{}", " ".repeat(1 + text.len() % 2)), &data);
    assert_ne!(std::fs::read(&path).unwrap().len() % 2, data.len() % 2, "the data begin at an odd address");
    let changed = Checkpoint::open(fixture.directory.path(), &fixture.config).unwrap();
    // bf16 values of this range have at most 8 significant bits: f16 holds them exactly.
    assert_eq!(changed.read_all(NORM).unwrap(), values);
    let mut buffer = Vec::new();
    let bits = changed.bf16_rows("model.embed_tokens.weight", 1..3, &mut buffer).unwrap();
    let widened: Vec<f32> = bits.iter().map(|b| f32::from_bits(u32::from(*b) << 16)).collect();
    assert_eq!(widened, table[8..24]);
}

#[test]
fn requests_that_no_source_can_meet() {
    let fixture = Fixture::new(None);
    let checkpoint = Checkpoint::open(fixture.directory.path(), &fixture.config).unwrap();
    let synthetic = SyntheticWeights::new(&fixture.config, 7);
    for (source, place) in [
        (&checkpoint as &dyn WeightSource, fixture.directory.path().display().to_string()),
        (&synthetic, "synthetic weights, seed 7".to_string()),
    ] {
        let refusal =
            |name: &str, rows, room| source.read_rows(name, rows, &mut vec![0.0; room]).unwrap_err().to_string();
        assert_eq!(refusal("x", 0..1, 1), format!("x: found no tensor of this name in {place}"));
        assert_eq!(refusal(NORM, 4..9, 5), "model.norm.weight: found rows 4..9, expected a part of 0..8");
        assert_eq!(refusal(NORM, 4..8, 5), "model.norm.weight: found room for 5 elements, expected 4");
    }
}

/// Headers of one file that do not fit the configuration.
#[test]
fn tensors_that_do_not_fit() {
    type Change = fn(&mut Map<String, Value>);
    let table: &[(Change, &str)] = &[
        (
            |h| {
                let entry = h.shift_remove(NORM).unwrap();
                h.insert("model.norm.bias".to_string(), entry);
            },
            "model.norm.weight: missing, expected a tensor [8]\n\
             model.norm.bias: found a tensor that the configuration does not ask for",
        ),
        (|h| h[NORM]["shape"] = json!([2, 4]), "model.norm.weight: found shape [2, 4], expected [8]"),
        (
            |h| h[NORM] = json!({"dtype": "U8", "shape": [16], "data_offsets": h[NORM]["data_offsets"]}),
            "model.norm.weight: found shape [16], expected [8]\n\
             model.norm.weight: found type U8, expected BF16, F16, F32",
        ),
        (
            |h| {
                h[NORM]["dtype"] = json!("I16");
                h["model.layers.1.self_attn.q_proj.bias"]["shape"] = json!([4, 2]);
            },
            "model.layers.1.self_attn.q_proj.bias: found shape [4, 2], expected [8]\n\
             model.norm.weight: found type I16, expected BF16, F16, F32",
        ),
    ];
    for (change, expected) in table {
        let fixture = Fixture::new(None);
        fixture.edit(SINGLE_FILE, *change);
        assert_eq!(fixture.refusal(), *expected);
    }
}

/// Headers that are wrong in themselves.
#[test]
fn damaged_headers() {
    type Change = fn(&mut Map<String, Value>);
    let origin = "model.safetensors: model.norm.weight";
    let table: &[(Change, &str)] = &[
        (|h| h[NORM]["dtype"] = json!("Q4"), "found dtype \"Q4\", expected a type such as \"BF16\""),
        (|h| h[NORM]["shape"] = json!([-8]), "found shape [-8], expected a list of sizes"),
        (|h| h[NORM] = json!(3), "found dtype nothing, expected a type such as \"BF16\""),
        (|h| h[NORM]["data_offsets"] = json!([9, 7]), "found data_offsets [9,7], expected [begin, end]"),
        (|h| h[NORM]["data_offsets"] = json!([7]), "found data_offsets [7], expected [begin, end]"),
        (
            |h| h[NORM]["data_offsets"] = json!([0, 14]),
            "found 14 bytes at data_offsets [0,14], expected those of a tensor BF16 [8]",
        ),
        (
            |h| h[NORM]["shape"] = json!([1u64 << 63, 4]),
            "found 16 bytes at data_offsets [1544,1560], expected those of a tensor BF16 [9223372036854775808, 4]",
        ),
        (|h| h[NORM]["data_offsets"] = json!([1542, 1558]), "starts at byte 1542 of the data, expected 1544"),
        (
            |h| h[NORM]["data_offsets"] = json!([1546, 1562]),
            "ends at byte 1562 of the data, but the file holds 1560 (cut short?)",
        ),
    ];
    for (change, expected) in table {
        let fixture = Fixture::new(None);
        fixture.edit(SINGLE_FILE, *change);
        assert_eq!(fixture.refusal(), format!("{origin}: {expected}"));
    }
}

#[test]
fn files_that_are_no_safetensors() {
    let fixture = Fixture::new(None);
    let path = fixture.path(SINGLE_FILE);
    let whole = std::fs::read(&path).unwrap();
    let refuse = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        fixture.refusal()
    };
    let file = "model.safetensors";
    assert_eq!(refuse(b""), format!("{file}: found 0 bytes, expected a safetensors file of at least 8"));
    assert_eq!(
        refuse(b"PK\x03\x04 a zip file, as of PyTorch"),
        format!(
            "{file}: the header claims 8800140462016121680 bytes, expected at most 22 (cut short, or not a safetensors file)"
        )
    );
    assert_eq!(
        refuse(b"\x04\0\0\0\0\0\0\0{\"a\""),
        format!("{file}: the header is not valid JSON: EOF while parsing an object at line 1 column 4")
    );
    let one_more = [&whole[..], &[0]].concat();
    assert_eq!(refuse(&one_more), format!("{file}: found 1561 bytes of data, expected 1560"));
    let (header, data) = {
        std::fs::write(&path, &whole).unwrap();
        parts(&path)
    };
    let twice =
        Value::Object(header.clone()).to_string().replacen('{', &format!("{{\"{NORM}\": {}, ", header[NORM]), 1);
    fixture.put(SINGLE_FILE, &twice, &data);
    assert_eq!(fixture.refusal(), format!("{file}: {NORM}: the header lists this tensor twice"));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(
        fixture.refusal(),
        "DIR: found neither model.safetensors nor model.safetensors.index.json, expected one of them"
    );
}

/// Indexes that do not agree with their shards.
#[test]
fn damaged_indexes() {
    let shard = |i: usize, n: usize| format!("model-{i:05}-of-{n:05}.safetensors");
    let fixture = Fixture::new(Some(300));
    let index: Value = serde_json::from_slice(&std::fs::read(fixture.path(INDEX_FILE)).unwrap()).unwrap();
    let place = |name: &str| index["weight_map"][name].as_str().unwrap().to_string();
    let last = place(NORM);
    let n: usize = last[15..20].parse().unwrap();
    assert_eq!(last, shard(n, n));

    let fixture = Fixture::new(Some(300));
    fixture.index(|map| map[NORM] = json!(shard(1, n)));
    assert_eq!(
        fixture.refusal(),
        format!("model.safetensors.index.json: {NORM}: expected in {}, but it is in {last}", shard(1, n))
    );

    let fixture = Fixture::new(Some(300));
    fixture.index(|map| {
        map.insert("lm_head.weight".to_string(), json!(last));
        map.shift_remove(NORM);
    });
    assert_eq!(
        fixture.refusal(),
        format!(
            "{last}: {NORM}: the tensor is not listed in model.safetensors.index.json\n\
             model.safetensors.index.json: lm_head.weight: expected in {last}, but no file holds it"
        )
    );

    let fixture = Fixture::new(Some(300));
    std::fs::remove_file(fixture.path(&last)).unwrap();
    std::fs::write(fixture.path(&shard(1, n)), b"").unwrap();
    assert_eq!(
        fixture.refusal(),
        format!(
            "{}: found 0 bytes, expected a safetensors file of at least 8\n\
             {last}: cannot open: No such file or directory (os error 2)",
            shard(1, n)
        )
    );

    let fixture = Fixture::new(Some(300));
    fixture.index(|map| map[NORM] = json!("../evil.safetensors"));
    let refusal = fixture.refusal();
    let expected = format!(
        "model.safetensors.index.json: {NORM}: found \"../evil.safetensors\", expected the name of a file beside the index"
    );
    assert_eq!(refusal.lines().next(), Some(expected.as_str()));

    let fixture = Fixture::new(Some(300));
    std::fs::copy(fixture.path(&shard(2, n)), fixture.path("copy.safetensors")).unwrap();
    let (header, _) = parts(&fixture.path("copy.safetensors"));
    let name = header.keys().find(|name| *name != "__metadata__").unwrap().clone();
    fixture.index(|map| map[NORM] = json!("copy.safetensors"));
    let refusal = fixture.refusal();
    assert!(refusal.contains(&format!("{}: {name}: the tensor is also in copy.safetensors", shard(2, n))), "{refusal}");

    for (text, expected) in [
        ("{}", "weight_map: found nothing, expected an object of file names"),
        ("{\"weight_map\": 3}", "weight_map: found 3, expected an object of file names"),
        ("[]", "found [], expected a JSON object"),
    ] {
        std::fs::write(fixture.path(INDEX_FILE), text).unwrap();
        assert_eq!(fixture.refusal(), format!("model.safetensors.index.json: {expected}"));
    }
}

/// A file cut anywhere is refused, and flipped header bits never make the reader panic. (The header's reader alone is
/// tested with every cut and every bit.)
#[test]
fn cuts_and_flipped_header_bits() {
    let fixture = Fixture::new(None);
    let path = fixture.path(SINGLE_FILE);
    let whole = std::fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for end in (0..whole.len()).step_by(17).chain([7, 8, header, whole.len() - 1]) {
        std::fs::write(&path, &whole[..end]).unwrap();
        assert!(Checkpoint::open(fixture.directory.path(), &fixture.config).is_err(), "cut at {end}");
    }
    for bit in (0..64).chain((64..8 * header).step_by(61)) {
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, &damaged).unwrap();
        // Only blanks and the metadata carry no meaning; whatever is accepted must be readable.
        if let Ok(checkpoint) = Checkpoint::open(fixture.directory.path(), &fixture.config) {
            assert_eq!(checkpoint.read_all(NORM).unwrap().len(), 8);
        }
    }
}

/// The writer refuses what would make a file that no reader takes.
#[test]
fn writing_too_much_too_little_or_elsewhere() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("x.safetensors");
    let header = TensorHeader { name: "x".to_string(), dtype: ElementType::F32, shape: vec![2] };
    let mut writer = TensorWriter::create(&path, vec![header]).unwrap();
    let message = |result: Result<(), jet_frontend::Problems>| {
        result.unwrap_err().to_string().replace(&format!("{}/", directory.path().display()), "")
    };
    assert_eq!(
        message(writer.append("y", &[0; 4])),
        "x.safetensors: y: found no tensor of this name in the file's header"
    );
    assert_eq!(message(writer.append("x", &[0; 9])), "x.safetensors: x: found 9 bytes, expected at most 8");
    writer.append("x", &[0; 4]).unwrap();
    assert_eq!(message(writer.finish()), "x.safetensors: x: 4 bytes have not been written");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left behind");
}
