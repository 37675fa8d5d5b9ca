//! Memory that comes page by page: addresses for the states of all sequences, of which only what holds something is memory.
//!
//! Kernels see caches without gaps and need no table of pages, since the GPU's own tables are used (the driver's "virtual memory
//! management"; compare vAttention, arXiv 2405.04437). Addresses never change, so that recorded graphs stay right.

use super::api::{Gpu, call};
use crate::device::{DeviceError, Growing};
use cudarc::driver::sys;
use std::ops::Range;

/// Memory of one page, given back when dropped.
struct Page(sys::CUmemGenericAllocationHandle);

impl Drop for Page {
    fn drop(&mut self) {
        // A failure here is one of an earlier call, which has been reported.
        let _ = call!(cuMemRelease(self.0));
    }
}

/// A range of addresses with pages where somebody asked for them.
pub(super) struct Paged {
    pub base: u64,
    page_bytes: u64,
    properties: sys::CUmemAllocationProp,
    pages: Vec<Option<Page>>,
    /// Pages that are mapped nowhere.
    spare: Vec<Page>,
}

// SAFETY: the properties hold a null pointer alone; handles belong to a context, not to a thread.
unsafe impl Send for Paged {}

/// What a page is: memory of this GPU.
fn properties(gpu: &Gpu) -> sys::CUmemAllocationProp {
    // SAFETY: the structure is numbers and a pointer, for which zero is a value; 0 is the first number of each of its enums.
    let mut properties: sys::CUmemAllocationProp = unsafe { std::mem::zeroed() };
    properties.type_ = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
    properties.location.__bindgen_anon_1.id = gpu.device;
    properties
}

/// Bytes of a page, or nothing where the GPU maps none.
pub(super) fn page_bytes(gpu: &Gpu) -> Result<Option<u64>, DeviceError> {
    if !gpu.maps_pages {
        return Ok(None);
    }
    let (mut bytes, properties) = (0, properties(gpu));
    let least = sys::CUmemAllocationGranularity_flags::CU_MEM_ALLOC_GRANULARITY_MINIMUM;
    call!(cuMemGetAllocationGranularity(&mut bytes, &properties, least))?;
    Ok(Some(bytes as u64))
}

/// Bytes of the pages that hold what is needed from the start.
pub(super) fn bytes_at_start(states: &Growing<'_>, page_bytes: u64) -> u64 {
    let (mut pages, mut next) = (0, 0);
    for (offset, bytes) in states.at_start {
        let range = touched(*offset, *bytes, page_bytes);
        let first = range.start.max(next);
        pages += range.end.saturating_sub(first);
        next = next.max(range.end);
    }
    pages * page_bytes
}

/// The pages with a byte in the range.
fn touched(offset: u64, bytes: u64, page_bytes: u64) -> Range<u64> {
    let first = offset / page_bytes;
    first..if bytes == 0 { first } else { (offset + bytes).div_ceil(page_bytes) }
}

/// The pages with nothing beside the range.
fn covered(offset: u64, bytes: u64, page_bytes: u64) -> Range<u64> {
    let first = offset.div_ceil(page_bytes);
    first..first.max((offset + bytes) / page_bytes)
}

impl Paged {
    /// Addresses for so many bytes.
    pub fn new(gpu: &Gpu, bytes: u64, page_bytes: u64) -> Result<Self, DeviceError> {
        let pages = bytes.div_ceil(page_bytes).max(1);
        let mut base = 0;
        call!(cuMemAddressReserve(&mut base, (pages * page_bytes) as usize, 0, 0, 0))?;
        let (pages, spare) = ((0..pages).map(|_| None).collect(), vec![]);
        Ok(Self { base, page_bytes, properties: properties(gpu), pages, spare })
    }

    /// Whether the range lies in these addresses, and all of it is memory.
    pub fn holds(&self, address: u64, bytes: u64) -> bool {
        let Some(offset) = address.checked_sub(self.base) else { return false };
        let pages = touched(offset, bytes, self.page_bytes);
        let pages = self.pages.get(pages.start as usize..pages.end as usize);
        pages.is_some_and(|p| p.iter().all(Option::is_some))
    }

    /// Whether the range lies in these addresses.
    pub fn spans(&self, address: u64, bytes: u64) -> bool {
        let end = self.base + self.pages.len() as u64 * self.page_bytes;
        self.base <= address && address.checked_add(bytes).is_some_and(|last| last <= end)
    }

    /// Makes the range memory where it is not, and gives the addresses that are new; what they hold is unknown.
    ///
    /// # Errors
    /// If there is not so much. Pages that were new before that are memory.
    pub fn commit(&mut self, address: u64, bytes: u64, new: &mut Vec<(u64, u64)>) -> Result<(), DeviceError> {
        for page in touched(address - self.base, bytes, self.page_bytes) {
            if self.pages[page as usize].is_none() {
                let memory = self.spare.pop().map_or_else(|| self.create(), Ok)?;
                let at = self.base + page * self.page_bytes;
                self.map(at, &memory)?;
                self.pages[page as usize] = Some(memory);
                new.push((at, self.page_bytes));
            }
        }
        Ok(())
    }

    /// How many pages of the range are missing, beyond those to spare.
    pub fn missing(&self, address: u64, bytes: u64) -> u64 {
        let pages = touched(address - self.base, bytes, self.page_bytes);
        let absent = self.pages[pages.start as usize..pages.end as usize].iter().filter(|p| p.is_none()).count();
        absent.saturating_sub(self.spare.len()) as u64 * self.page_bytes
    }

    /// Whether a release of the range would take pages away, for which nothing may be running.
    pub fn would_release(&self, address: u64, bytes: u64) -> bool {
        let pages = covered(address - self.base, bytes, self.page_bytes);
        self.pages[pages.start as usize..pages.end as usize].iter().any(Option::is_some)
    }

    /// Takes the pages away that hold nothing beside the range, to be mapped elsewhere.
    pub fn release(&mut self, address: u64, bytes: u64) -> Result<(), DeviceError> {
        for page in covered(address - self.base, bytes, self.page_bytes) {
            if self.pages[page as usize].is_some() {
                call!(cuMemUnmap(self.base + page * self.page_bytes, self.page_bytes as usize))?;
                self.spare.extend(self.pages[page as usize].take());
            }
        }
        Ok(())
    }

    fn create(&self) -> Result<Page, DeviceError> {
        let mut handle = 0;
        call!(cuMemCreate(&mut handle, self.page_bytes as usize, &self.properties, 0))?;
        Ok(Page(handle))
    }

    fn map(&self, at: u64, memory: &Page) -> Result<(), DeviceError> {
        let bytes = self.page_bytes as usize;
        call!(cuMemMap(at, bytes, 0, memory.0, 0))?;
        let flags = sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
        let access = sys::CUmemAccessDesc { location: self.properties.location, flags };
        call!(cuMemSetAccess(at, bytes, &access, 1))
    }
}

impl Drop for Paged {
    fn drop(&mut self) {
        let bytes = self.page_bytes as usize;
        // Failures here are those of earlier calls, which have been reported.
        for (i, page) in (0..).zip(&mut self.pages) {
            if page.take().is_some() {
                let _ = call!(cuMemUnmap(self.base + i * self.page_bytes, bytes));
            }
        }
        let _ = call!(cuMemAddressFree(self.base, bytes * self.pages.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_at_the_start_are_counted_once() {
        let bytes = |at_start: &[(u64, u64)]| bytes_at_start(&Growing { bytes: 1 << 20, at_start }, 256);
        assert_eq!(bytes(&[]), 0);
        assert_eq!(bytes(&[(0, 1)]), 256);
        assert_eq!(bytes(&[(0, 256), (256, 1)]), 512);
        assert_eq!(bytes(&[(0, 100), (120, 100), (250, 10), (2048, 0)]), 512);
    }

    #[test]
    fn a_page_is_released_only_as_a_whole() {
        assert_eq!(touched(255, 2, 256), 0..2);
        assert_eq!(touched(256, 0, 256), 1..1);
        assert_eq!(covered(255, 2, 256), 1..1);
        assert_eq!(covered(0, 256, 256), 0..1);
        assert_eq!(covered(10, 1000, 256), 1..3);
    }
}
