// Package deployments tests what operators are given: units, example settings
// and resources, and that the documents written for them say what the code does.
package deployments
