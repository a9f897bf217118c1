package main

// Main is the command.
var Main = main
