//! Alerts and the dashboard: whether Prometheus takes them, whether each alert fires when it
//! should and says what to do, and whether what they ask for is there.

mod dashboard;
mod live;
mod operator;
mod overload;
mod rules;
