//! The text form: round trips, and what is reported.

use jet_ir::ops::{Acc, Neg, RmsNorm, Store, Sweep};
use jet_ir::{Elem, F32, Graph, Id, Leaf, OutputKind, Rows, Type, grid_of, parse, read, read_bytes, verify};

const NORM: &str = r#"graph "norm" {
  %0: f32[T, 4] = input "x"
  %1: const bf16[1, 4] = weight "norm.weight"
  %2: f32[T, 4] = rms_norm %0, %1 {eps = 1e-6}
  return %2 as "y"
}
"#;

fn messages(text: &str) -> String {
    read("f", text).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn a_graph_is_printed_as_it_is_read() {
    let mut g = Graph::new("norm");
    let x = g.add_leaf(Leaf::Input, "x", Type::mem(Rows::Tokens, 4)).unwrap();
    let w = g.add_leaf(Leaf::Weight, "norm.weight", Type::weight(1, 4, Elem::Bf16)).unwrap();
    let y = g.add(RmsNorm { eps: F32::from(1e-6) }, &[x, w]).unwrap();
    g.output(OutputKind::Return, "y", y);
    assert_eq!(g.to_string(), NORM);
    assert_eq!(read("f", NORM).unwrap(), g);
    assert_eq!(g.line(y).to_string(), "%2: f32[T, 4] = rms_norm %0, %1 {eps = 1e-6}");
}

#[test]
fn values_may_have_any_names_and_lines_any_form() {
    let text = "graph\"norm\"{%x:f32 [T,4]=input \"x\" // comment\n%weight.1\n:const bf16[1,4]=weight \"norm.weight\" \
                %y: f32[T, 4] = rms_norm %x, %weight.1 {eps=1e-6} return %y as \"y\"}//end";
    assert_eq!(read("f", text).unwrap().to_string(), NORM);
}

#[test]
fn any_name_survives() {
    for name in ["", "a \"quoted\" \\ name", "line\nbreak\ttab\u{0}", "größe 😀 \u{2028}", "// no comment"] {
        let mut g = Graph::new(name);
        let x = g.add_leaf(Leaf::Input, name, Type::mem(Rows::Tokens, 1)).unwrap();
        g.output(OutputKind::Return, name, x);
        assert_eq!(read("f", &g.to_string()).unwrap(), g, "{name:?}");
        assert_eq!(g.to_string().lines().count(), 4, "{name:?}");
    }
}

#[test]
fn errors_are_collected_but_follow_from_nothing() {
    let text = "graph \"g\" {\n  %0: f33[T, 4] = input \"x\"\n  %1: f32[T, 4] = neg %0\n  %2: f32[T 4] = neg %1\n  \
                return %2 as \"y\n}\n";
    assert_eq!(
        messages(text),
        "f:2:7: expected a type (f32, bf16, f16, i32, q8, q4), found `f33`\n\
         f:4:13: expected `,`, found `4`\n\
         f:5:16: expected a closing quote before the end of the line"
    );
}

#[test]
fn bytes_that_are_no_text_have_a_place() {
    let error = read_bytes("f", b"graph \"g\" {\n  \xc3\xa4\xff").unwrap_err();
    assert_eq!(error.to_string(), "f:2:4: found bytes that are no UTF-8 text");
    assert!(read_bytes("f", NORM.as_bytes()).is_ok());
}

#[test]
fn a_built_graph_is_verified_like_a_text() {
    let mut g = Graph::new("built");
    let x = g.add_leaf(Leaf::Input, "x", Type::mem(Rows::Tokens, 4)).unwrap();
    let y = g.add(Neg {}, &[x]).unwrap();
    g.output(OutputKind::Return, "y", y);
    assert_eq!(verify(&g), Ok(()));
    g.nodes[1].ty = Type::mem(Rows::Tokens, 5);
    g.nodes[1].args.push(Id(7));
    g.output(OutputKind::Update, "s", Id(9));
    assert_eq!(
        verify(&g).unwrap_err().to_string(),
        "graph \"built\": operand 1 is %7, expected a value before %1\n  at %1: f32[T, 5] = neg %0, %7\n\
         graph \"built\": found %9, which is no value of this graph\n  at update %9 as \"s\""
    );
    // a value that is its own operand is printable, and no text
    g.nodes[1].args = vec![Id(1)];
    g.outputs.pop();
    assert!(verify(&g).is_err());
    let error = parse("f", &g.to_string()).unwrap_err();
    assert_eq!(error.to_string(), "f:3:23: expected a value that is defined above, found `%1`");
}

#[test]
fn values_know_their_grid() {
    let mut g = Graph::new("grids");
    let x = g.add_leaf(Leaf::Input, "x", Type::mem(Rows::Tokens, 4)).unwrap();
    let w = g.add_leaf(Leaf::Weight, "w", Type::weight(2, 4, Elem::Bf16)).unwrap();
    let sweep = g.add(Sweep {}, &[x]).unwrap();
    let acc = g.add(Acc {}, &[sweep, w]).unwrap();
    let negated = g.add(Neg {}, &[acc]).unwrap();
    let stored = g.add(Store {}, &[negated]).unwrap();
    let outside = g.add(Neg {}, &[stored]).unwrap();
    for id in [sweep, acc, negated, stored] {
        assert_eq!(grid_of(&g, id), Some(sweep));
    }
    for id in [x, w, outside] {
        assert_eq!(grid_of(&g, id), None);
    }
}
