//! What is written is read back; the bytes are reproducible; a broken writer leaves nothing behind.

mod artifact;

use artifact::*;
use jetbin::*;

#[test]
fn everything_written_is_read_back() {
    let bytes = bytes();
    let r = Reader::open(&bytes).unwrap();
    assert_eq!(r.total_bytes(), bytes.len() as u64);
    assert_eq!(r.text(SectionKind::Recipe).unwrap(), Some(r#"{"compiler":"test"}"#));
    assert_eq!(r.section(SectionKind::Tokenizer, 0), None);
    let facts = r.facts();
    assert_eq!((facts.name.as_str(), facts.vocab_size, facts.eos_ids), ("sample", 10, vec![9, 8]));
    assert_eq!(r.inv_freq().collect::<Vec<_>>(), [1.0, 0.5]);
    let keys = r.states(0).get(1).unwrap();
    assert_eq!((keys.name, keys.kind, keys.offset), ("layers.1.keys", StateKind::Keys, 256));
    assert_eq!((keys.dtype, keys.bytes()), (DType::Bf16, 512));
    assert_eq!((r.slot_bytes(0), r.states(0).get(0).unwrap().dtype), (8192, DType::F32));
    let head = r.weights().get(1).unwrap();
    assert_eq!((head.name, head.offset, head.length), ("head", 128, 60));
    assert_eq!(head.sources, "model.head.weight\nmodel.b");
    let WeightPlace::Inside(data) = r.weight_place() else { panic!("weights are inside") };
    assert_eq!(data[..100], [1; 100]);
    assert_eq!(data[128..], [2; 60]);
    r.verify_weights(data).unwrap();
    let target = r.targets().get(0).unwrap();
    assert_eq!((target.name.as_str(), target.features.len(), target.rank), ("x86-64-v3", 2, 3));
    assert_eq!(r.kernels(0).get(1).unwrap().key, "other()");
    assert_eq!(r.code(0), [0xc3; 32]);
    let p = r.program(0, Phase::Decode).unwrap();
    assert_eq!((p.max_rows(), p.head_rows(), p.logits(), p.argmax()), (3, 2, 1, Some(2)));
    let step = p.steps().get(1).unwrap();
    assert_eq!((step.label, step.items(3)), ("mixer", 10));
    assert_eq!(p.args_of(&step).nth(1), Some(Arg::State(1)));
    assert_eq!(p.probes().get(1).unwrap().kind, ProbeKind::MixerHidden(0));
    walk(&r);
}

#[test]
fn schedule_and_plan_are_readable() {
    let bytes = bytes();
    let r = Reader::open(&bytes).unwrap();
    let p = r.program(0, Phase::Prefill).unwrap();
    let schedule = print::schedule(&r, 0, &p).to_string();
    assert!(
        schedule.contains("embed(ids, @embed, %hidden, rows, begin, end, 7) items 4 + 2 a row  ; embed"),
        "{schedule}"
    );
    let plan = print::memory_plan(&p).to_string();
    assert!(plan.contains("arena 4096 bytes for 248 bytes of buffers; scratch 256 bytes a thread"), "{plan}");
    assert!(plan.lines().any(|l| l.contains("0..2") && l.ends_with("hidden")), "{plan}");
}

#[test]
fn the_same_calls_give_the_same_bytes() {
    assert_eq!(bytes(), bytes());
}

#[test]
fn weights_in_a_second_file_are_bound_to_the_artifact() {
    let folder = Folder::new("external");
    let (path, data) = (folder.0.join("a.jetbin"), folder.0.join("a.weights"));
    let options = WriterOptions { external_weights: Some(data.clone()), sync: true };
    let written = write(&path, options).unwrap();
    assert_eq!(written.weight_bytes, 188);
    let (bytes, mut data) = (std::fs::read(path).unwrap(), std::fs::read(data).unwrap());
    let r = Reader::open(&bytes).unwrap();
    assert_eq!(r.identity(), written.identity);
    assert!(matches!(r.weight_place(), WeightPlace::External { length: 188, .. }));
    r.verify_weights(r.external_weights(&data).unwrap()).unwrap();
    *data.last_mut().unwrap() ^= 1;
    let error = r.verify_weights(r.external_weights(&data).unwrap()).unwrap_err().to_string();
    assert!(error.starts_with("damaged artifact: weight data: hash "), "{error}");
    data.pop();
    assert!(r.external_weights(&data).is_err());
    data.push(2);
    data[20] ^= 1;
    assert!(r.external_weights(&data).unwrap_err().to_string().contains("with hash"));
    assert!(r.external_weights(&bytes).unwrap_err().to_string().contains("not one of packed weights"));
}

#[test]
fn a_writer_that_does_not_finish_leaves_nothing_behind() {
    let folder = Folder::new("unfinished");
    let path = folder.0.join("a.jetbin");
    let count = || std::fs::read_dir(&folder.0).unwrap().count();
    let mut w = Writer::create(&path, WriterOptions::default()).unwrap();
    let desc = WeightDesc { name: "w".into(), dtype: DType::F32, layout: String::new(), sources: vec![] };
    w.weight(&desc, |out| out.write_all(&[0; 8])).unwrap();
    assert!(!path.exists(), "there is no file of this name before it is complete");
    let error = w.weight(&desc, |_| Err(std::io::Error::other("no more tensors"))).unwrap_err();
    assert_eq!(error.to_string(), "weight w: no more tensors");
    drop(w);
    assert_eq!(count(), 0);
}

#[test]
fn misuse_of_the_writer_is_refused() {
    let folder = Folder::new("misuse");
    let mut w = Writer::create(&folder.0.join("a.jetbin"), WriterOptions::default()).unwrap();
    let desc = WeightDesc { name: "w".into(), dtype: DType::F32, layout: String::new(), sources: vec![] };
    w.weight(&desc, |out| out.write_all(&[0; 8])).unwrap();
    w.bytes(SectionKind::Model, b"{}").unwrap();
    assert_eq!(w.weight(&desc, |_| Ok(())).unwrap_err().to_string(), "weight w comes after another section");
    assert_eq!(w.bytes(SectionKind::Model, b"").unwrap_err().to_string(), "a second section model for target 0");
    assert_eq!(w.bytes(SectionKind::Code, b"").unwrap_err().to_string(), "section code is not one of plain bytes");
    assert!(Writer::create(&folder.0.join("absent/a.jetbin"), WriterOptions::default()).is_err());
}

#[test]
fn weights_larger_than_a_block_keep_their_bytes_and_hash() {
    let folder = Folder::new("large");
    let path = folder.0.join("a.jetbin");
    let mut w = Writer::create(&path, WriterOptions::default()).unwrap();
    let desc = WeightDesc { name: "w".into(), dtype: DType::F32, layout: String::new(), sources: vec![] };
    let large: Vec<u8> = (0..3_000_004u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    w.weight(&desc, |out| large.chunks(777).try_for_each(|part| out.write_all(part))).unwrap();
    w.weight(&desc, |out| out.write_all(&large)).unwrap();
    let facts = Facts { vocab_size: 1, max_context: 1, max_batch: 1, prefill_chunk: 1, ..Facts::default() };
    w.facts(&facts).unwrap();
    w.states(0, 0, &[]).unwrap();
    w.finish().unwrap();
    let bytes = std::fs::read(path).unwrap();
    let r = Reader::open(&bytes).unwrap();
    let WeightPlace::Inside(data) = r.weight_place() else { panic!("weights are inside") };
    r.verify_weights(data).unwrap();
    assert!(data[..large.len()] == large && data[large.len().next_multiple_of(64)..] == large);
}
