//! Lists of candidates, read and judged by sorting all logits.

use jetbin::CandidateList;

const LIST: CandidateList = CandidateList::USUAL;

/// The ids and scores of the best of each row, out of the lists of several threads.
pub fn merged(lists: &[Vec<u32>], rows: usize) -> Vec<Vec<(u32, f32)>> {
    let of_row = |row: usize| {
        let mut all = vec![];
        for list in lists {
            let list = &list[row * LIST.words() as usize..][..LIST.words() as usize];
            let part = |at: u32, n: u32| &list[at as usize..(at + n) as usize];
            let checks = part(CandidateList::CHECKS, CandidateList::WIDTH);
            assert!(checks.iter().all(|w| f32::from_bits(*w) == 0.0), "logits are finite: {checks:x?}");
            let scores = part(CandidateList::SCORES, LIST.len).iter().map(|w| f32::from_bits(*w));
            let of_thread: Vec<(u32, f32)> = part(LIST.ids(), LIST.len).iter().copied().zip(scores).collect();
            assert!(of_thread.is_sorted_by(|a, b| a.1 > b.1 || a.1 == b.1 && (a.0 < b.0 || a.1 == f32::NEG_INFINITY)));
            assert!(of_thread.iter().all(|(id, score)| (*id == u32::MAX) == (*score == f32::NEG_INFINITY)));
            all.extend(of_thread.into_iter().filter(|(id, _)| *id != u32::MAX));
        }
        sort(&mut all);
        all.truncate(LIST.len as usize);
        all
    };
    (0..rows).map(of_row).collect()
}

fn sort(all: &mut [(u32, f32)]) {
    all.sort_by(|a, b| b.1.partial_cmp(&a.1).expect("numbers").then(a.0.cmp(&b.0)));
}

/// Whether they are the best of the logits of each row, bit by bit.
pub fn check(best: &[Vec<(u32, f32)>], logits: &[u32], cols: usize) {
    for (best, row) in best.iter().zip(logits.chunks_exact(cols)) {
        let mut all: Vec<(u32, f32)> = (0..).zip(row.iter().map(|w| f32::from_bits(*w))).collect();
        sort(&mut all);
        all.truncate(LIST.len as usize);
        assert_eq!(*best, all);
    }
}
