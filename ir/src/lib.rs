//! Types, op table, graph, text form, verifier and reference evaluation of jetc.
