// Written by web/build.mjs. Names carry a hash of what is in them.
&[
    ("app-I7FF7SE6.js", include_bytes!("app-I7FF7SE6.js")),
    ("editor-ORDUTEXK.js", include_bytes!("editor-ORDUTEXK.js")),
    ("licences-642E51DD.txt", include_bytes!("licences-642E51DD.txt")),
    ("mark-10AA1244.svg", include_bytes!("mark-10AA1244.svg")),
    ("style-EVJ73POO.css", include_bytes!("style-EVJ73POO.css")),
]
