// Package rig is what the end-to-end tests share: children as real processes
// whose words stand in files, and waiting with a deadline for what can only be
// looked at from outside.
package rig
