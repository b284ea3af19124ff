//! What containers do by themselves: they end, are restarted, and their health is asked for.
