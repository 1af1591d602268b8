//! Every kernel on arbitrary input, legal and illegal: it gives an error, or a result that plain loops in f64 confirm,
//! whatever the storage and the number of threads. The environment's `PROPTEST_CASES` asks for so many
//! other cases, of a random seed or that of `PROPTEST_RNG_SEED`.

mod inputs;

mod columns;
mod diversity;
mod importance;
mod logits;
mod same_bits;
