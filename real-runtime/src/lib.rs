//! Stormglass on real sockets and disks.
