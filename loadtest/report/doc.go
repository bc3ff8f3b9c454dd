// Package report turns what a load test measured into what people read:
// figures, a verdict, a page that needs nothing but itself, lines on a terminal,
// and several runs side by side.
//
// The order is [Judge], which completes Results in place, then [Write], which
// leaves results.json and report.html in the run's directory. [Events] is
// written while it runs. All but Events are pure: the same results give the
// same page.
package report
