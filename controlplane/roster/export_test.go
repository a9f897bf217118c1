package roster

// Encode is encode.
var Encode = encode
