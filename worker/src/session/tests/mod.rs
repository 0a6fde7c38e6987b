//! Workers whose members come and go: their training threads over the real ring, the coordinator played by the test.

mod generations;
mod outage;
mod ranks;
