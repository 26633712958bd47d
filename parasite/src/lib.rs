//! parasite
