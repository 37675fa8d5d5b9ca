//! E-graph fusion, layouts, schedule and memory plan of jetc.
