// Written by web/build.mjs. Names carry a hash of what is in them.
&[
    ("app-A5Z3FI2N.js", include_bytes!("app-A5Z3FI2N.js")),
    ("editor-SZQS4Q6S.js", include_bytes!("editor-SZQS4Q6S.js")),
    ("licences-642E51DD.txt", include_bytes!("licences-642E51DD.txt")),
    ("mark-10AA1244.svg", include_bytes!("mark-10AA1244.svg")),
    ("style-ZQCFFRDB.css", include_bytes!("style-ZQCFFRDB.css")),
]
