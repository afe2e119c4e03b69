//! Sorting things of many types by one piece of code.

use std::cmp::Ordering;

/// Sorts things; equal ones stay in the order they are in.
///
/// The standard library's sorting is 5 KiB of code for each type that is sorted. This one sorts their numbers,
/// whatever they are, and then puts each in its place.
pub fn sort_by<T>(things: &mut Vec<T>, compare: impl Fn(&T, &T) -> Ordering) {
    let order = order(things.len(), &|a, b| compare(&things[a], &things[b]));
    let mut unsorted: Vec<Option<T>> = things.drain(..).map(Some).collect();
    things.extend(order.into_iter().filter_map(|number| unsorted[number].take()));
}

/// The numbers of so many things, as these are to stand.
fn order(count: usize, compare: &dyn Fn(usize, usize) -> Ordering) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|&a, &b| compare(a, b));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn it_sorts_as_the_standard_library_does(mut things: Vec<(u8, u8)>) {
            let mut wanted = things.clone();
            wanted.sort_by_key(|thing| thing.0);
            sort_by(&mut things, |a, b| a.0.cmp(&b.0));
            proptest::prop_assert_eq!(things, wanted);
        }
    }
}
