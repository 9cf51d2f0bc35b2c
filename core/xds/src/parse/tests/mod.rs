mod addresses;
mod policies;
