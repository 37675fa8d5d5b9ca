//! The one rule by which the items of a step are shared out among threads.

use std::ops::Range;

/// The contiguous range of `items` that thread `t` of `threads` runs: the ranges are in thread order, cover every item
/// once, and the first `items % threads` of them are one longer, so that only the last threads can be idle.
///
/// # Panics
/// If `t >= threads`.
pub fn partition(items: u64, threads: u32, t: u32) -> Range<u64> {
    assert!(t < threads, "thread {t} of {threads}");
    let (each, longer) = (items / u64::from(threads), items % u64::from(threads));
    let cut = |t: u64| t * each + t.min(longer);
    cut(u64::from(t))..cut(u64::from(t) + 1)
}

#[cfg(test)]
mod tests {
    use super::partition;

    #[test]
    fn ranges_cover_every_item_once_and_are_balanced() {
        for threads in 1..9 {
            for items in [0, 1, 2, 7, 8, 9, 1000, u64::MAX] {
                let ranges: Vec<_> = (0..threads).map(|t| partition(items, threads, t)).collect();
                assert_eq!(ranges[0].start, 0);
                assert_eq!(ranges[threads as usize - 1].end, items);
                assert!(ranges.windows(2).all(|w| w[0].end == w[1].start));
                let sizes = ranges.iter().map(|r| r.end - r.start);
                assert!(sizes.clone().max().unwrap() - sizes.min().unwrap() <= 1);
                assert_eq!(
                    ranges.iter().position(|r| r.is_empty()).map_or(u64::from(threads), |n| n as u64),
                    items.min(u64::from(threads))
                );
            }
        }
    }
}
