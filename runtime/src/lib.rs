//! Maps a jetbin artifact and runs its schedule.
