mod support;
use jet_passes::*;
use support::*;
#[test]
fn show() {
    for (t, p) in [(ZEN4_2, Phase::decode(1, 1024)), (H100, Phase::decode(1, 1024)), (H100, Phase::prefill(512))] {
        let g = model(JET_2B, "jas");
        let cost = Roofline::new(t, p);
        println!("{}", listing(&fuse(&g, &cost, &Options::default()).unwrap()));
        let start = std::time::Instant::now();
        let e = explain::explain(&g, "mixer_hidden.0", &cost, &Options::default()).unwrap();
        println!("{:?}\n{e}", start.elapsed());
    }
    let s = saturate(&model(JET_2B, LAYERS_2B), &Options::default()).unwrap();
    let (d, p) = (Roofline::new(H100, Phase::decode(1, 1024)), Roofline::new(H100, Phase::prefill(512)));
    println!("{}", assign_layout(&s, &[Program { cost: &d, runs: 256 }, Program { cost: &p, runs: 1 }]).unwrap());
}
