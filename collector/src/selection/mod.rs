pub(crate) mod expression;
mod fields;
pub(crate) mod labels;
pub(crate) mod shape;
